"""Files that are whole or not there, whenever the process dies and whatever the disk has room for."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write; at the end it takes the place of `path` in one step. Where anything fails, `path` is as it was.

    Raises OSError where the disk does not take it. One writer of a path at a time.
    """
    # one name for each path, so that what a killed process left is written over; short, since names have a limit
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]
    partial = path.with_name(f".{path.name[:40]}.{digest}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name on an empty file
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Replace the file by `data` in one step. Raises OSError, and then the file is as it was."""
    with replacing(path) as file:
        file.write(data)
