"""What is in a folder of residuals and the folders in it, without opening a file."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .names import SUFFIX

TICK = 100_000_000
"""Nanoseconds in which two changes of a folder may get one time."""
COARSE_TICK = 2_000_000_000
"""The same where the file system keeps seconds alone, or pairs of them."""


class Stamp(NamedTuple):
    """What changes with a file. mtime in nanoseconds, size in bytes."""

    mtime: int
    size: int


def stamp_of(path: Path) -> Stamp | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return None if stat.S_ISDIR(status.st_mode) else Stamp(status.st_mtime_ns, status.st_size)


def shown(name: str) -> str:
    """A file's name as text: bytes that are no UTF-8 become \\x and their digits, so that it stays its own."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    return name


@dataclass(frozen=True)
class Listing:
    """files: those that end in .safetensors, in the order of their paths. folders: each with its own time, or None
    where that is so young that the next change may not be seen in it."""

    folder: Path
    files: dict[str, Stamp]
    folders: dict[str, int | None]

    @classmethod
    def of(cls, folder: Path) -> Listing:
        """Each folder is read once, whatever links lead to it; a link upwards, out of `folder`, is not followed."""
        files: dict[str, Stamp] = {}
        folders: dict[str, int | None] = {}
        # links last, so that what they lead to has its own name where it is in the folder, too
        waiting: list[str] = [str(folder)]
        links: list[str] = []
        seen = set(map(_identity, Path(os.path.realpath(folder)).parents))
        while waiting or links:
            current = waiting.pop() if waiting else links.pop(0)
            identity = _identity(current)
            if identity in seen:
                continue
            seen.add(identity)
            folders[current] = _settled(current)
            try:
                with os.scandir(current) as entries:
                    inside = list(entries)
            except (OSError, ValueError):
                continue
            for entry in inside:
                try:
                    if entry.is_dir():
                        (links if entry.is_symlink() else waiting).append(entry.path)
                    elif entry.name.endswith(SUFFIX):
                        status = entry.stat()
                        files[entry.path] = Stamp(status.st_mtime_ns, status.st_size)
                except OSError:  # a broken link, or it has vanished
                    continue
            links.sort()
        order = sorted(files, key=lambda path: path.split(os.sep))
        return cls(folder, {path: files[path] for path in order}, folders)

    def inside(self, path: str) -> str:
        """A file's path in the folder, without the suffix and with "/"."""
        path = path[len(os.path.join(self.folder, "")) : -len(SUFFIX)]
        return shown(path if os.sep == "/" else path.replace(os.sep, "/"))

    def is_current(self) -> bool:
        """Whether no file can have come or gone since."""
        try:
            return all(then is not None and os.stat(path).st_mtime_ns == then for path, then in self.folders.items())
        except OSError:
            return False


def _identity(folder: str | Path) -> tuple[int, int] | str:
    """The same for each way to a folder."""
    try:
        status = os.stat(folder)
    except (OSError, ValueError):
        return str(folder)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)


def _settled(folder: str) -> int | None:
    try:
        time_ns = os.stat(folder).st_mtime_ns
    except (OSError, ValueError):
        return None
    tick = COARSE_TICK if time_ns % 1_000_000_000 == 0 else TICK
    return time_ns if abs(time.time_ns() - time_ns) > tick else None
