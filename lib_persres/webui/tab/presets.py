"""Presets of the training tab: settings under a name, kept in one JSON file."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path

from ...errors import PersresError
from ...writing import write_whole
from ..json_file import encodable, read_json
from .form import SETTINGS, preset_name


class Presets:
    """file: need not be there yet."""

    def __init__(self, file: Path):
        self._file = file
        self._writing = threading.Lock()

    def all(self) -> dict[str, dict]:
        """Those that can be read; `problem` names the others."""
        found = {}
        for name, values in self._read().items():
            if _problem(name, values) is None:
                found[name] = {key: value for key, value in values.items() if key in SETTINGS}
        return found

    def problem(self) -> str | None:
        """A sentence about the presets that are left out; None where there are none."""
        wrong = {name: why for name, values in self._read().items() if (why := _problem(name, values))}
        if not wrong:
            return None
        name, why = next(iter(wrong.items()))
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        return f'The preset "{name[:40]}"{more} in {self._file} is left out ({why}): mend or delete it there.'

    def _read(self) -> dict:
        """What the file holds. PersresError where it is damaged as a whole."""
        try:
            found = read_json(self._file)
            if not isinstance(found, dict):
                raise PersresError("it is no object")
        except FileNotFoundError:
            return {}
        except PersresError as error:
            reason = str(error).rstrip(".")
            raise PersresError(
                f"The presets in {self._file} cannot be read ({reason}): mend or delete the file."
            ) from error
        return found

    def get(self, name: str) -> dict:
        presets = self.all()
        if name not in presets:
            raise PersresError(f'There is no preset "{name}" any more: refresh the list.')
        return presets[name]

    def save(self, name: str | None, values: Mapping) -> str:
        """Keep the settings among the values under this name; the name as it is kept."""
        name = preset_name(name)
        kept = {key: values[key] for key in SETTINGS if key in values}
        if why := _problem(name, kept):
            raise PersresError(f'The preset "{name}" cannot be kept: {why}.')
        with self._writing:
            self._write({**self._read(), name: kept})
        return name

    def delete(self, name: str) -> None:
        self.get(name)
        with self._writing:
            self._write({key: values for key, values in self._read().items() if key != name})

    def _write(self, presets: dict) -> None:
        path = self._file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(presets, indent=1).encode())
        except OSError as error:
            raise PersresError(f"The preset cannot be written to {path} ({error.strerror or error}).") from error


def _problem(name: str, values) -> str | None:
    """What is wrong with a preset; None: nothing."""
    try:
        preset_name(name)
    except PersresError:
        return "its name is no preset's"
    if not isinstance(values, dict):
        return "it holds no settings"
    for key in SETTINGS:
        value = values.get(key)
        # the page's inputs hold texts, ticks and numbers; others would break it
        if not isinstance(value, (str, bool, int, float, type(None))) or len(str(value)) > 1000:
            return f"its {key} is no value of an input"
        if encodable(value) != value:
            return f"its {key} is no text or number"
    return None
