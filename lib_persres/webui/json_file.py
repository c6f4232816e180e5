"""JSON that others may have damaged: read with a bound and one sentence, and told in a form that every reader takes."""

from __future__ import annotations

import json
import math
from pathlib import Path

from ..errors import PersresError, first_line

MOST = 4 << 20
"""Bytes of a file that is read."""


def read_json(path: Path, most: int = MOST):
    """A file's value. FileNotFoundError where there is none, PersresError with a reason alone where it is no JSON."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise PersresError("it is no file")  # a pipe or a device would never end
        if size > most:
            raise PersresError(f"it has {size:,} bytes")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise PersresError(error.strerror or str(error)) from error
    except RecursionError as error:
        raise PersresError("it is nested too deeply") from error
    except PersresError:
        raise
    except ValueError as error:
        raise PersresError(f"it is no JSON: {first_line(error)}") from error


def encodable(value):
    """The same of dicts, lists and plain values, without numbers and characters that a JSON answer cannot hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {encodable(str(key)): encodable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [encodable(each) for each in value]
    return value
