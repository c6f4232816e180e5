"""One process at a time: a lock that the system frees when the process ends, however it does."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import PersresError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # a module that may be missing

TAKEN = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)


@contextlib.contextmanager
def only_one(path: Path, taken: str) -> Iterator[None]:
    """Hold the lock file, which is gone at the end. PersresError(taken) where another process has it.

    Where the disk has no locks (some network disks) there is nothing to wait for.
    """
    file = _locked(path, taken)
    try:
        yield
    finally:
        if file is not None:
            if fcntl is not None:
                _remove(path)  # before it is freed, so that nobody locks what is removed then
            os.close(file)
            if fcntl is None:
                _remove(path)


def _locked(path: Path, taken: str) -> int | None:
    while True:
        file = None
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            _lock(file)
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
            os.close(file)  # another process held it, and removed it
        except FileNotFoundError:
            if file is None:
                return None
            os.close(file)
        except OSError as error:
            if file is None:
                return None
            os.close(file)
            if error.errno in TAKEN:
                raise PersresError(taken) from error
            return None


def _lock(file: int) -> None:
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        import msvcrt

        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
