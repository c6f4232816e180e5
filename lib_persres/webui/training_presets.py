"""Presets of the training tab: settings under a name, kept in one JSON file."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ..errors import PersresError, first_line
from .training_form import SETTINGS, preset_name


class Presets:
    """file: need not be there yet."""

    def __init__(self, file: Path):
        self._file = file

    def all(self) -> dict[str, dict]:
        path = self._file
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise PersresError(
                f"The presets in {path} cannot be read ({first_line(error)}): mend or delete the file."
            ) from error
        if not isinstance(found, dict) or not all(isinstance(value, dict) for value in found.values()):
            raise PersresError(f"The presets in {path} are damaged: mend or delete the file.")
        return {
            name: {key: value for key, value in values.items() if key in SETTINGS} for name, values in found.items()
        }

    def get(self, name: str) -> dict:
        presets = self.all()
        if name not in presets:
            raise PersresError(f'There is no preset "{name}" any more: refresh the list.')
        return presets[name]

    def save(self, name: str | None, values: Mapping) -> str:
        """Keep the settings among the values under this name; the name as it is kept."""
        name = preset_name(name)
        self._write({**self.all(), name: {key: values[key] for key in SETTINGS if key in values}})
        return name

    def delete(self, name: str) -> None:
        self.get(name)
        self._write({key: values for key, values in self.all().items() if key != name})

    def _write(self, presets: dict) -> None:
        path = self._file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            try:
                with open(handle, "w", encoding="utf-8") as file:
                    json.dump(presets, file, indent=1)
                os.replace(partial, path)
            except BaseException:
                Path(partial).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise PersresError(f"The preset cannot be written to {path} ({error.strerror or error}).") from error
