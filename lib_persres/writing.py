"""Files that are whole or not there, whenever the process dies and whatever the disk has room for."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

STALE = 3600
"""Seconds after which a half-written file is nobody's any more."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write; at the end it takes the place of `path` in one step. Where anything fails, `path` is as it was.

    Raises OSError, which names `path`, where the disk does not take it.
    """
    with _partial(path) as (partial, file):
        yield file
        _finish(file)
        os.replace(partial, path)


def write_whole(path: Path, data: bytes) -> None:
    """Replace the file by `data` in one step. Raises OSError, and then the file is as it was."""
    with replacing(path) as file:
        file.write(data)


def write_new(path: Path, data: bytes) -> None:
    """The same of a file that is not there yet. Raises FileExistsError, and leaves the file, if it is."""
    with _partial(path) as (partial, file):
        file.write(data)
        _finish(file)
        put_new(partial, path)


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside `path`, which is gone at the end unless it got another name."""
    # a name that no listing of *.safetensors shows, of one writer, and short, since names have a limit
    partial = path.with_name(f".{secrets.token_hex(6)}.partial")
    try:
        _sweep(path.parent)
        with open(partial, "xb") as file:
            yield partial, file
    except OSError as error:
        if error.filename is None or str(partial) in (error.filename, error.filename2):  # the user knows the other name
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _finish(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())  # else a power cut may leave the new name on an empty file
    file.close()  # Windows gives no other name to an open one


def _sweep(folder: Path) -> None:
    """Remove what a killed process left of its writing; what is younger may be another's at work."""
    for partial in folder.glob(f".{'[0-9a-f]' * 12}.partial"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > STALE:
                partial.unlink()


def put_new(written: Path, path: Path) -> None:
    """Give a file of the same folder its name. Raises FileExistsError, and leaves both, if the name is taken."""
    try:
        os.link(written, path)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError, AttributeError):  # not on every disk
        with open(path, "xb"):
            pass
        os.replace(written, path)
    else:
        written.unlink()
