"""Files that are whole or not there, whenever the process dies and whatever the disk has room for."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


def write_new(path: Path, data: bytes) -> None:
    """Raises FileExistsError, and leaves the file, if it is there."""
    with _written(path, data) as partial:
        put_new(partial, path)


def write_over(path: Path, data: bytes) -> None:
    """Replaces the file if it is there."""
    with _written(path, data) as partial:
        os.replace(partial, path)


@contextlib.contextmanager
def _written(path: Path, data: bytes) -> Iterator[Path]:
    partial = path.with_name(f".{secrets.token_hex(6)}.partial")
    try:
        with open(partial, "xb") as file:
            file.write(data)
        yield partial
    except OSError as error:
        if error.filename is None or str(partial) in (error.filename, error.filename2):  # the user knows the other name
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


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
