"""What is known about a residual: the fields of its metadata, and their form in the header of its file."""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from typing import Any

from . import __version__, png, strict_json
from .errors import JOINERS, PersresError, first_line
from .names import LONGEST, check_class, check_spelling, one_form

FORMAT, FORMAT_VERSION = "persres", 1
MAX_PREVIEW = 64 * 1024
"""Characters of base64."""
MAX_SIDE = 1024
"""Pixels of a preview, eight times what we write: a small file may hold a picture that takes gigabytes."""
MAX_TEXT = 1000
"""Characters of a field that is text."""
MAX_JSON = 256 * 1024
"""Characters of any other field."""


@dataclass
class Metadata:
    """Everything about a residual but its numbers; in the file each field is a string of the same name."""

    concept: str = ""
    identifier: str = ""
    """The rare token that stands for V*."""
    macro_class: str = ""
    base_family: str = "SD1"
    base_hash: str = ""
    """SHA-256 of the checkpoint it was trained on."""
    targets: str = "proj_out"
    """The rule that picks the modules, see `targets`."""
    rank: str = "0.05m"
    """The rank rule, see `residual.rank_of`."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """Every hyper-parameter of the training."""
    steps: int = 0
    seed: int | None = None
    loss: dict[str, Any] = field(default_factory=dict)
    truncation: float | None = None
    """‖ΔW - up·down‖ / ‖ΔW‖ over all targets, where what was learned is no product of such factors."""
    created: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    library_version: str = __version__
    image_hashes: list[str] = field(default_factory=list)
    """SHA-256 of the training images; never their paths."""
    preview: str | None = None
    """A small PNG in base64."""
    extra: dict[str, str] = field(default_factory=dict)
    """What a file's header holds besides, written back unchanged."""

    def to_strings(self) -> dict[str, str]:
        """The header of the file. Raises PersresError for a value that could not be read back."""
        strings = {str(key): str(value) for key, value in self.extra.items()}
        for name in _KINDS:
            strings.pop(name, None)  # a field that is None is absent, whatever `extra` says
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                strings[name] = _encode(name, value)
        return {**strings, "format": FORMAT, "format_version": str(FORMAT_VERSION)}

    @classmethod
    def from_strings(cls, strings: dict[str, str]) -> Metadata:
        """The inverse of `to_strings`. Raises PersresError with a reason; who knows the file names it."""
        version = strings.get("format_version", "")
        if not re.fullmatch(r"[1-9][0-9]{0,8}", version):
            raise PersresError(f"its format_version is {version[:40]!r} and not a number")
        if int(version) > FORMAT_VERSION:
            raise PersresError(f"its format is version {version} and this extension knows {FORMAT_VERSION}, update it")
        missing = next((name for name in ("concept", "identifier", "macro_class") if name not in strings), None)
        if missing:
            raise PersresError(f"its metadata lacks {missing}")
        # what the file does not say is not known: the defaults of these are true of new residuals only
        values: dict[str, Any] = {"created": "", "library_version": "", "base_family": ""}
        values |= {name: _decode(name, strings[name]) for name in _KINDS if name in strings}
        known = {"format", "format_version", *_KINDS}
        return cls(**values, extra={key: text for key, text in strings.items() if key not in known})


_KINDS: dict[str, type] = {item.name: str for item in fields(Metadata) if item.name != "extra"}
_KINDS |= {"recipe": dict, "steps": int, "seed": int, "loss": dict, "truncation": float, "image_hashes": list}
_OPTIONAL = ("seed", "truncation", "preview")


def _encode(name: str, value: object) -> str:
    try:
        if _KINDS[name] is not str:
            text = json.dumps(value, allow_nan=False)
        elif isinstance(value, str):
            text = value
        else:
            raise TypeError(f"{type(value).__name__} is not text")
        _decode(name, text)
    except PersresError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise PersresError(f"the metadata's {name} cannot be kept in a file ({first_line(error)})") from error
    return text


def _decode(name: str, text: str) -> Any:
    kind = _KINDS[name]
    try:
        if len(text) > _longest(name):
            raise ValueError("too long")
        value: Any = text if kind is str else strict_json.loads(text)
        if name in _SPELLED:
            value = _SPELLED[name](value)
        if kind is float and type(value) is int:
            value = float(value)
    except PersresError as error:
        raise PersresError(f"its {first_line(error).removeprefix('The ')}") from error
    except ValueError as error:
        raise PersresError(f"its metadata's {name} is damaged") from error
    sound = type(value) is kind and (not isinstance(value, float) or math.isfinite(value))
    if name == "image_hashes":
        sound = sound and all(isinstance(item, str) for item in value)
    if name == "preview":
        sound = _is_png(text)
    if not sound:
        raise PersresError(f"its metadata's {name} is not what it should be: {text[:40]!r}")
    return value


def _longest(name: str) -> int:
    return MAX_PREVIEW if name == "preview" else MAX_TEXT if _KINDS[name] is str else MAX_JSON


def check_concept(name: str) -> str:
    """A name that tags and sentences may hold; that of the file has to be stricter."""
    if not all(character.isprintable() or character in JOINERS for character in name):
        raise PersresError(f'The name "{name}" contains what cannot be seen.')
    if len(name) > LONGEST:
        raise PersresError(f'The name "{name}" has {len(name)} characters, more than {LONGEST}.')
    return one_form(name)


_SPELLED = {"concept": check_concept, "identifier": check_spelling, "macro_class": check_class}
"""What may stand in a prompt or a tag, so it is no freer in a file than where it is trained."""


def _is_png(text: str) -> bool:
    """Whether it is a small PNG in base64, and so safe to put into a page and to decode."""
    if len(text) > MAX_PREVIEW:
        return False
    try:
        return png.is_small(base64.b64decode(text, validate=True))
    except ValueError:
        return False
