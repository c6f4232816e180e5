"""The WebUI's residuals, and beside them its LoRA files, which a tag may name, too."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import replace
from pathlib import Path

from ..errors import PersresError, readable
from ..lora.adapter import reader
from ..residual_folder import Entry, ResidualFolder

LORA = "lora/"
"""A name that begins so is one of the WebUI's Lora folder alone."""


class Files(ResidualFolder):
    """loras: the WebUI's Lora folder, where a name is looked for that no residual has; None where it has none. shown:
    whether its files have cards.
    """

    def __init__(
        self,
        folder: Callable[[], Path],
        limit: Callable[[], int],
        hashes: MutableMapping[str, str],
        loras: Callable[[], Path | None],
        shown: Callable[[], bool] = lambda: False,
    ):
        super().__init__(folder, limit, hashes, reader=reader())
        self._loras, self._shown = loras, shown
        self._others = ResidualFolder(lambda: loras() or Path("/nonexistent"), limit, hashes, reader=reader())

    def find(self, name: str) -> Entry:
        if self._loras() is None:
            return super().find(name)
        if name.startswith(LORA) and not self.matches(name):
            return self._others.find(name.removeprefix(LORA))
        try:
            return super().find(name)
        except PersresError:
            if self.matches(name):  # several have it
                raise
            try:
                return self._others.find(name)
            except PersresError:
                if self._others.matches(name):
                    raise
            near = self.near(name) or self._others.near(name)
            guess = f' (did you mean "{near}"?)' if near else ""
            raise PersresError(
                f'There is no residual "{readable(name, 60)}"{guess} in {self.folder()}, nor a LoRA file of that name '
                f"in {self._loras()}."
            ) from None

    def listed(self) -> list[Entry]:
        """Those that have cards, by the best of their names; the folders are read again."""
        found = self.refresh()
        if self._loras() is None or not self._shown():
            return found
        return [*found, *(replace(entry, name=LORA + entry.name) for entry in self._others.refresh())]

    def folders(self) -> list[Path]:
        """Where they are."""
        loras = self._loras() if self._shown() else None
        return [Path(self.folder()), *([loras] if loras else [])]

    def meant(self, name: str) -> list[Entry]:
        """As `matches`, of both folders, as they were when they were last read."""
        return self.matches(name) or (self._others.matches(name.removeprefix(LORA)) if self._loras() else [])
