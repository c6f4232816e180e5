"""A user's file, looked at before it is read: what it is, and how large."""

from __future__ import annotations

import os
import stat

from ...errors import PersresError

MOST_BYTES = 128 << 20
"""Of one picture's file."""
OTHERS = (
    (stat.S_ISDIR, "is a folder, not an image"),
    (stat.S_ISFIFO, "is a pipe, not a file"),
    (stat.S_ISSOCK, "is a socket, not a file"),
    (stat.S_ISCHR, "is a device, not a file"),
    (stat.S_ISBLK, "is a device, not a file"),
)


def status(path: str | os.PathLike[str], called: str) -> os.stat_result | None:
    """Of what the path leads to, None where there is nothing. PersresError for a path that leads nowhere."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) and not isinstance(error, UnicodeError):
            return None  # a null byte: no file can be called so
        raise PersresError(f"{called} cannot be read ({reason(error)}); give another path.") from error


def refuse_unusable(found: os.stat_result | None, called: str) -> None:
    """PersresError unless it is a file, not empty, and not larger than a picture may be."""
    if found is None:
        raise PersresError(f"{called} does not exist; give the paths of image files.")
    for is_other, words in OTHERS:
        if is_other(found.st_mode):
            raise PersresError(f"{called} {words}; give the paths of image files.")
    if found.st_size > MOST_BYTES:
        raise PersresError(too_large(called, found.st_size))
    if not found.st_size:
        raise PersresError(f"The image {called} cannot be read (the file is empty); replace or remove it.")


def too_large(called: str, size: int) -> str:
    return (
        f"The image {called} has {size >> 20:,} MiB, but at most {MOST_BYTES >> 20} are allowed; "
        "scale it down or save it as JPEG."
    )


def read(path: str | os.PathLike[str], called: str | None = None) -> bytes:
    """A picture's file. called: what sentences call it. PersresError for what is no file, or is too large."""
    called = str(path) if called is None else called
    refuse_unusable(status(path, called), called)
    try:
        # not blocking: between the look and here it may have become a pipe that nobody writes into
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(path, flags), "rb") as file:
            refuse_unusable(os.fstat(file.fileno()), called)
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise PersresError(f"The image {called} cannot be read ({reason(error)}); replace or remove it.") from error
    if len(data) > MOST_BYTES:  # it grew meanwhile
        raise PersresError(too_large(called, len(data)))
    return data


def reason(error: Exception) -> str:
    """Why, for the inside of a sentence; some of Pillow's and Python's texts span lines or are empty."""
    if isinstance(error, UnicodeError):
        return "its name is not one that a file can have"
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split())[:120].rstrip(".") or type(error).__name__
