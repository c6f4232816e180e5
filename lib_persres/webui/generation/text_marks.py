"""What LoRA files change of the text encoders, while the WebUI encodes the texts of their own generation.

A text is marked by a word that no tokenizer sees: it says which files act on the text, and how strongly, and keeps one
file's conds from another's in the WebUI's cache.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...lora.text_part import TextFactors, TextPart
from ...prompt import NETWORK
from ...residual_folder import Loaded
from ..host import HOST
from .lent import Lent

_MARK = re.compile(rf"{NETWORK}text([0-9a-f]{{12}}) ?")  # the WebUI strips a part that has nothing else
_AND = re.compile(r"(?<!\w)AND(?!\w)")

Acting = Mapping[Loaded, tuple[TextFactors, float]]
"""What acts on a text, and how strongly."""


def marked(text: str, mark: str) -> str:
    """With the mark in each of its parts (AND)."""
    return "AND".join(f" {mark}{part}" for part in _AND.split(text)).lstrip() if mark else text


def unmarked(text: str) -> str:
    return _MARK.sub("", text)


class MarkedTexts(Lent):
    """The marks of one job. unknown: told of how many layers of a file the model's text encoders have none."""

    def __init__(self, unknown: Callable[[Loaded, int], None], problem: Callable[[str], None]):
        super().__init__()
        self._unknown = unknown
        self._problem = problem
        self._known: dict[str, Acting] = {}
        self._model = None
        self._part: TextPart | None = None
        self._files: list[Loaded] = []
        self._handles: list[Any] = []

    def forget(self) -> None:
        self._known = {}

    def mark(self, acting: Acting) -> str:
        """For texts on which these act; "" for none."""
        acting = {loaded: own for loaded, own in acting.items() if own[0] and own[1] != 0}
        if not acting:
            return ""
        said = repr([(loaded.short_hash, loaded.name, strength) for loaded, (_, strength) in acting.items()])
        digits = hashlib.sha256(said.encode()).hexdigest()[:12]
        self._known[digits] = acting
        return f"{NETWORK}text{digits} "

    def renew(self) -> None:
        """The WebUI may have changed the model."""
        model = HOST.model() if self._known else None
        files = list(dict.fromkeys(loaded for acting in self._known.values() for loaded in acting))
        if not self._depth or (model is self._model and files == self._files):
            return
        self._take_back()
        self._model, self._files = model, files
        if model is None:
            return
        parts = {loaded: own[0] for acting in self._known.values() for loaded, own in acting.items()}
        self._part = TextPart(HOST.encoders(model), [parts[loaded] for loaded in files]).attach()
        for loaded, count in zip(files, self._part.unknown):
            if count:
                self._unknown(loaded, count)
        for reader in HOST.readers(model).values():
            self._handles += HOST.on_reading(reader, self._begin, self._end)

    def _take_back(self) -> None:
        while self._handles:
            self._handles.pop().remove()
        if self._part is not None:
            self._part.detach()
        self._part = self._model = None
        self._files = []

    def _begin(self, reader: object, args: tuple) -> tuple | None:
        part = self._part
        texts = args[0] if args else None
        if part is None or not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
            return None
        part.strengths = None
        found = {tuple(dict.fromkeys(_MARK.findall(text))) for text in texts}
        if not any(found):
            return None
        if len(found) == 1 and (acting := self._acting(found.pop())) is not None:
            part.strengths = [acting[loaded][1] if loaded in acting else 0.0 for loaded in self._files]
        else:
            self._problem(
                "Another extension encodes texts of several pictures at once, so what LoRA files change of the text "
                "encoder is left out."
            )
        return ([unmarked(text) for text in texts], *args[1:])

    def _acting(self, marks: Sequence[str]) -> Acting | None:
        return self._known.get(marks[0]) if len(marks) == 1 else None

    def _end(self, reader: object, args: tuple, output: object) -> None:
        if self._part is not None:
            self._part.strengths = None
