"""What the user keeps about a residual: the WebUI's own <name>.json beside the file.

The keys are those that the WebUI's Lora cards use, so that other tools know them as well.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

from ..errors import PersresError

DESCRIPTION, NOTES, PHRASE, STRENGTH = "description", "notes", "activation text", "preferred weight"
MAX_STRENGTH = 100.0
MAX_FILE = 1 << 20
_V = re.compile(r"(?<![\w*])V([0-9]*)\*(?!\w)")


def read_json(path: Path) -> dict:
    """Everything in <name>.json; nothing where there is none. PersresError where it cannot be understood."""
    try:
        if not path.exists():
            return {}
        if path.stat().st_size > MAX_FILE:
            raise ValueError("too large")
        given = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(given, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        raise PersresError(
            f"The notes in {path.name} cannot be read, they are not a JSON object in UTF-8: repair or delete that file."
        ) from error
    return given


def read_notes(path: Path) -> tuple[dict, str | None]:
    """What <name>.json says, and a sentence about what in it is not understood; such values are left out."""
    try:
        given = read_json(path)
    except PersresError as error:
        return {}, str(error)
    wrong = [key for key in (DESCRIPTION, NOTES, PHRASE) if not isinstance(given.get(key, ""), str)]
    if not _is_strength(given.get(STRENGTH, 0)):
        wrong.append(STRENGTH)
    if PHRASE not in wrong:
        try:
            check_phrase(given.get(PHRASE, ""))
        except PersresError:
            wrong.append(PHRASE)
    problem = f"{path.name} has an unusable {', '.join(wrong)}: edit it here and save." if wrong else None
    return {key: value for key, value in given.items() if key not in wrong}, problem


def check_phrase(phrase: str) -> str:
    """The phrase on one line; PersresError unless it is empty or has V* in it."""
    phrase = " ".join(phrase.split())
    numbers = {match[1] for match in _V.finditer(phrase)}
    if phrase and not numbers:
        raise PersresError(f'The phrase "{phrase[:60]}" has no V* in it; write for example "V* dog".')
    if numbers - {""}:
        raise PersresError("The phrase has a numbered V; write V*, the card puts V2* for a second concept itself.")
    if "<" in phrase or ">" in phrase:
        raise PersresError("The phrase has a tag or an angle bracket in it; the card adds the tag itself.")
    return phrase


def _is_strength(value) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and 0 <= value <= MAX_STRENGTH
