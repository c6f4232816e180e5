"""One process for each queue: a lock on its folder, which the system frees when the process ends, however it does."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # a module cannot be None elsewhere

NAME = ".lock"
TAKEN = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
PLACE = 1
"""Of the process's number in the file; Windows lets nobody read the byte that is locked, the first."""


class FolderLock:
    def __init__(self, folder: Path):
        self._folder = folder
        self._file: int | None = None
        self.held = False

    def take(self) -> str | None:
        """None: the folder is ours. Otherwise who has it, for a sentence.

        Where the system has no locks for this folder (some network disks), there is none to wait for.
        """
        if self.held:
            return None
        file = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = os.open(self._folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
            _lock(file)
        except OSError as error:
            if file is not None and error.errno in TAKEN:
                return _owner(file)
            if file is not None:
                os.close(file)
            self.held = True
            return None
        self._file, self.held = file, True
        with contextlib.suppress(OSError):  # a full disk: the number is for a sentence alone
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
            os.write(file, b" " * PLACE + str(os.getpid()).encode())
        return None

    def free(self) -> None:
        if self._file is not None:
            os.close(self._file)  # which unlocks it
        self._file, self.held = None, False


def _lock(file: int) -> None:
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        import msvcrt

        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)


def _owner(file: int) -> str:
    """Closes the file."""
    try:
        os.lseek(file, PLACE, os.SEEK_SET)
        number = os.read(file, 20).decode("ascii", "replace").strip()
    except OSError:
        number = ""
    finally:
        os.close(file)
    if number == str(os.getpid()):
        return "the WebUI of before the reload, which ends its step first"
    return f"another process{f' (number {number})' if number.isascii() and number.isdigit() else ''}"
