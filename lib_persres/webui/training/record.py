"""What a restarted WebUI has to know of a training, as it is kept in job.json, which others may have damaged."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, TypeGuard

from ...errors import PersresError, readable
from .request import Request

VERSION = 1
STATES = ("queued", "running", "finished", "stopped", "cancelled", "failed", "interrupted")
NEEDED = ("request", "images", "class_images", "state")
"""Without these a training cannot go on; another value that is damaged is left out, and said."""


@dataclass
class Record:
    """version: of what is kept; a value that is added later has a default where it is missing, and needs no new one."""

    request: dict
    images: list[str]
    """The names that the user knows them by."""
    class_images: list[str] = field(default_factory=list)
    """Likewise; none: where the recipe wants some, the model draws them."""
    notes: list[str] = field(default_factory=list)
    """Sentences on what was passed over among the images, or is not as it should be."""
    stages: list[list] = field(default_factory=list)
    """The targets and steps of each stage, once it has begun."""
    state: str = "queued"
    done: int = 0
    total: int = 0
    curve: list[float] = field(default_factory=list)
    message: str = ""
    file: str | None = None
    name: str | None = None
    stamp: list[int] | None = None
    """Of the file when it was written, which tells whether it still is this training's own."""
    pace: dict | None = None
    """What its last steps took: the seconds of a row, the side of the pictures, the UNet's size."""
    identifier: str | None = None
    base_hash: str | None = None
    checkpoint: str | None = None
    """The model that it was begun on, by which it has to be continued."""
    version: int = VERSION

    @classmethod
    def from_json(cls, values) -> Record:
        """PersresError with a reason alone."""
        if not isinstance(values, dict):
            raise PersresError("it is no object")
        if missing := [name for name in ("request", "images") if name not in values]:
            raise PersresError(f"it lacks {' and '.join(missing)}")
        if _count(version := values.get("version")) and version > VERSION:
            raise PersresError(f"it is of version {version}, and this extension knows {VERSION}: update it")
        found = {item.name: values[item.name] for item in fields(cls) if item.name in values}
        wrong = [name for name, value in found.items() if not _SOUND[name](value)]
        if essential := [name for name in wrong if name in NEEDED]:
            raise PersresError(f"its {' and '.join(essential)} are damaged")
        record = cls(**{name: value for name, value in found.items() if name not in wrong})
        record.message, record.notes = readable(record.message, MESSAGE), [readable(note) for note in record.notes]
        Request.from_dict(record.request)
        if wrong:
            record.message = f"{record.message} Its record was damaged: {', '.join(wrong)} left out.".strip()
        return record


def _text(value, most: int = 5000) -> bool:
    return isinstance(value, str) and len(value) <= most


def _count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= 10**9


def _number(value) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


def _list(item: Callable[[object], bool], length: int | None = None) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and length in (None, len(value)) and all(item(each) for each in value)


def _or_none(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or check(value)


MESSAGE = 3000
"""Characters of the sentences that a status tells."""
PACE = ("row_seconds", "side", "unet")

_SOUND: dict[str, Callable[[Any], bool]] = {
    "request": lambda value: isinstance(value, dict),
    "images": _list(_text),
    "class_images": _list(_text),
    "notes": _list(_text),
    "stages": _list(lambda stage: isinstance(stage, list) and len(stage) == 2 and _text(stage[0]) and _count(stage[1])),
    "state": lambda value: isinstance(value, str) and value in STATES,
    "done": _count,
    "version": _count,
    "total": _count,
    "curve": lambda value: _list(_number)(value) and len(value) <= 1000,
    "message": _text,
    **{name: _or_none(_text) for name in ("file", "name", "identifier", "base_hash", "checkpoint")},
    "pace": _or_none(
        lambda value: isinstance(value, dict) and set(value) == set(PACE) and all(map(_number, value.values()))
    ),
    "stamp": _or_none(_list(lambda value: type(value) is int, 2)),
}
"""Whether a value is what its field should be."""
