"""Opening what may be no file: a pipe, a device or a socket is refused, never waited for."""

from __future__ import annotations

import errno
import io
import os
import stat

# O_NONBLOCK: else opening a pipe waits for a writer
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: str | os.PathLike[str]) -> io.FileIO:
    """A regular file, opened for reading. OSError for anything else; its `strerror` is fit for a sentence."""
    try:
        descriptor = os.open(path, _FLAGS)
    except ValueError as error:  # a NUL, or a surrogate that no file name has
        raise OSError(errno.EINVAL, "no file can have such a name") from error
    except PermissionError as error:
        if os.path.isdir(path):  # Windows opens no folders
            raise IsADirectoryError(errno.EISDIR, "it is a folder") from error
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, not a file")
        return io.FileIO(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_whole(path: str | os.PathLike[str], limit: int) -> bytes:
    """All of a regular file. OSError as `open_regular` does, or where it has more than `limit` bytes."""
    pieces, size = [], 0
    with open_regular(path) as file:
        while piece := file.read(min(1 << 20, limit + 1 - size)):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise OSError(errno.EFBIG, f"it is larger than {limit} bytes")
    return b"".join(pieces)
