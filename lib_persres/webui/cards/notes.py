"""What the user keeps about a residual: the WebUI's own <name>.json beside the file.

The keys are those that the WebUI's Lora cards use, so that other tools know them as well.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from ... import strict_json
from ...errors import PersresError, readable
from ...lora.adapter import MOST_WORDS
from ...prompt import MAX_STRENGTH
from ...regular_files import read_whole
from ...residual_listing import shown

DESCRIPTION, NOTES, PHRASE, STRENGTH = "description", "notes", "activation text", "preferred weight"
MAX_FILE = 1 << 20
_V = re.compile(r"(?<![\w*])V([0-9]*)\*(?!\w)")


def read_json(path: Path) -> dict:
    """What <name>.json holds that can be written again; nothing where there is none. PersresError where it is no JSON
    object."""
    return _read(path)[0]


def read_notes(path: Path, plain: bool = False) -> tuple[dict, str | None]:
    """What <name>.json says, and a sentence about what in it is not understood; such values are left out. plain: see
    `check_phrase`."""
    try:
        given, wrong = _read(path)
    except PersresError as error:
        return {}, str(error)
    wrong += [key for key in (DESCRIPTION, NOTES, PHRASE) if not isinstance(given.get(key, ""), str)]
    if not _is_strength(given.get(STRENGTH, 0)):
        wrong.append(STRENGTH)
    if PHRASE not in wrong:
        try:
            check_phrase(given.get(PHRASE, ""), plain)
        except PersresError:
            wrong.append(PHRASE)
    if not wrong:
        return given, None
    problem = f"{shown(path.name)} has an unusable {', '.join(wrong)}: edit it here and save."
    return {key: value for key, value in given.items() if key not in wrong}, readable(problem)


def _read(path: Path) -> tuple[dict, list[str]]:
    """The values, and the keys of those that were left out since nothing could write them again."""
    try:
        given = strict_json.decode_leniently(read_whole(path, MAX_FILE).decode("utf-8-sig"))
        if not isinstance(given, dict):
            raise ValueError("no object")
    except FileNotFoundError:
        return {}, []
    except (OSError, ValueError) as error:
        raise PersresError(
            f"The notes in {shown(path.name)} cannot be read, they are not a JSON object in UTF-8: "
            "repair or delete that file."
        ) from error
    wrong = []
    for key in list(given):
        try:
            strict_json.check([key, given[key]])
        except ValueError:
            wrong.append(key)
            del given[key]
    return given, wrong


def kept_words(path: Path) -> tuple[str, ...]:
    """The user's own words for a LoRA file: its activation text, cut at commas. path: of the file."""
    said = read_notes(path.with_suffix(".json"), plain=True)[0].get(PHRASE, "")
    words = dict.fromkeys(word for part in said.split(",") if (word := " ".join(part.split())))
    return tuple(words)[:MOST_WORDS]


def check_phrase(phrase: str, plain: bool = False) -> str:
    """The phrase on one line; PersresError unless it is empty or has V* in it. plain: of a LoRA file, whose words stand
    in prompts as they are."""
    phrase = " ".join(phrase.split())
    numbers = {match[1] for match in _V.finditer(phrase)}
    if phrase and not numbers and not plain:
        raise PersresError(f'The phrase "{phrase[:60]}" has no V* in it; write for example "V* dog".')
    if numbers - {""} and not plain:
        raise PersresError("The phrase has a numbered V; write V*, the card puts V2* for a second concept itself.")
    if "<" in phrase or ">" in phrase:
        raise PersresError("The phrase has a tag or an angle bracket in it; the card adds the tag itself.")
    return phrase


def _is_strength(value) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and 0 <= value <= MAX_STRENGTH
