"""What a run folder holds, read for a report: its settings, score rows, finished pieces and pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import PersresError
from ...training.images import image_files

BASE = "base"


@dataclass(frozen=True)
class Piece:
    """A finished piece: one concept's training and the pictures of the methods that use it. cost: its piece.json."""

    concept: str
    training: str
    methods: tuple[str, ...]
    cost: dict


@dataclass(frozen=True)
class Run:
    folder: Path
    settings: dict
    rows: list[dict]
    pieces: list[Piece]
    said: list[str] = field(default_factory=list)
    """What is odd about the folder, a sentence each."""
    pair_rows: list[dict] = field(default_factory=list)
    """The rows of the pairs' pictures; "concept" is the pair's name."""
    pair_pieces: list[Piece] = field(default_factory=list)
    classes: dict[str, dict] = field(default_factory=dict)
    """Concept -> its given class, the nearest noun and their cosine, where a method asked for it."""

    @property
    def suite(self) -> dict:
        return self.settings["suite"]

    @property
    def methods(self) -> list[dict]:
        """The suite's methods, then those that only the scores know."""
        known = [{"name": m} if isinstance(m, str) else m for m in self.suite.get("methods", [])]
        names = {method["name"] for method in known}
        return known + [{"name": n} for n in dict.fromkeys(row["method"] for row in self.rows) if n not in names]

    @property
    def concepts(self) -> list[str]:
        return list(dict.fromkeys(row["concept"] for row in self.rows))

    def picture(self, concept: str, method: str, prompt: int, image: int) -> Path | None:
        """The file of a picture, None where it is not there."""
        name = f"{prompt:03d}-{image:03d}.png"
        return self._found(self.folder / "pieces" / concept, method, name)

    def pair_picture(self, pair: str, method: str, prompt: int, image: int) -> Path | None:
        return self._found(self.folder / "pairs" / pair, method, f"{prompt:03d}-{image:03d}.png")

    @staticmethod
    def _found(folder: Path, method: str, name: str) -> Path | None:
        return next(iter(sorted(folder.glob(f"*/{_literal(method)}/{name}"))), None)

    def references(self, concept: str) -> list[Path]:
        """The concept's photos, if they are where the run says."""
        root = str((self.settings.get("dataset") or {}).get("root") or "")
        places = [self.folder / "references" / concept]
        places += [self.folder / root / concept, Path(root) / concept] if root else []
        for place in places:
            if place.is_dir() and (found := image_files(place)):
                return found
        return []


def read(folder: Path) -> Run:
    """Raises PersresError where the folder is no run or has no scores yet."""
    settings = _json(folder / "run.json", f"{folder} is no run of an evaluation")
    if not isinstance(settings.get("suite"), dict):
        raise PersresError(f"{folder / 'run.json'} says nothing of a suite: it was not written by `evaluate run`.")
    files = sorted((folder / "scores").glob("*.jsonl"))
    rows, said = _rows(files)
    if not rows:
        raise PersresError(f"{folder} has no scores yet: make them with `evaluate score {folder}`.")
    pieces = _pieces(folder / "pieces")
    if not pieces:
        said.append("The folder has no finished piece, so seconds and memory are not known.")
    pair_rows, odd = _rows(sorted((folder / "pairs").glob("*/scores.jsonl")))
    chosen = folder / "classes.json"
    classes = _json(chosen, "the nouns are not known").get("concepts", {}) if chosen.exists() else {}
    return Run(folder, settings, rows, pieces, said + odd, pair_rows, _pieces(folder / "pairs"), classes)


def _pieces(folder: Path) -> list[Piece]:
    pieces = []
    for file in sorted(folder.glob("*/*/piece.json")):
        cost = _json(file, f"the piece {file.parent} is not whole")
        methods = sorted(entry.name for entry in file.parent.iterdir() if entry.is_dir())
        pieces.append(Piece(file.parent.parent.name, file.parent.name, tuple(methods), cost))
    return pieces


def _rows(files: list[Path]) -> tuple[list[dict], list[str]]:
    found: dict[tuple, dict] = {}
    twice = 0
    for file in files:
        for number, line in enumerate(_text(file).splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                key = tuple(row[name] for name in ("method", "concept", "prompt", "image"))
            except (ValueError, KeyError, TypeError):
                raise PersresError(
                    f"{file}, line {number} is no row of scores: make the scores anew with `evaluate score`."
                ) from None
            twice += key in found
            found[key] = row
    said = [f"{twice} pictures have more than one row of scores; the last row counts."] if twice else []
    return list(found.values()), said


def _json(file: Path, otherwise: str) -> dict:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError
        return found
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not a JSON object"
        raise PersresError(f"{otherwise}: {file.name} cannot be read ({reason}).") from error


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not a UTF-8 text"
        raise PersresError(f"{file} cannot be read: {reason}.") from error


def _literal(name: str) -> str:
    """A name for glob: its special signs stand for themselves."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)
