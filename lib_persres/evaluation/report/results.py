"""What a report is made of: a run's suite, its rows of scores as tables, its finished pieces."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pandas as pd

from ...errors import PersresError
from ..datasets.dataset import CATEGORIES, TOGETHER, WITHOUT
from ..run_folder import PieceFolder, RunFolder, read_json
from ..suite import Method, Suite
from .columns import COLUMNS, Column

NAMED = 3
_OWN = re.compile(r'"[^"]*"|<[^<>]*>')
"""What differs in a sentence from concept to concept: names and words in quotes, tags."""


@dataclass(frozen=True)
class Results:
    """rows: of concepts. pairs: of pairs, whose name is "concept". said: what is odd, a sentence each."""

    run: RunFolder
    settings: dict
    suite: Suite
    rows: pd.DataFrame
    pairs: pd.DataFrame
    pieces: list[PieceFolder]
    classes: dict[str, dict]
    said: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, run: RunFolder) -> Results:
        """PersresError where the folder is no run or has no scores yet."""
        settings = run.load()
        rows, twice = run.all_rows()
        table = pd.DataFrame(rows, columns=None if rows else ["category"])
        together = table["category"] == TOGETHER
        if together.all():
            raise PersresError(f"{run.root} has no scores yet: make them with `evaluate score {run.root}`.")
        pieces = run.pieces()
        said = [f"{twice} pictures have more than one row of scores; the last row counts."] if twice else []
        if not pieces:
            said.append("The folder has no finished piece, so seconds and memory are not known.")
        return cls(
            run,
            settings,
            Suite.from_dict(settings["suite"], str(run.run_file)),
            table[~together],
            table[together],
            pieces,
            read_json(run.classes_file, {}).get("concepts", {}),
            said,
        )

    @property
    def dataset(self) -> dict:
        return self.settings.get("dataset") or {}

    @property
    def counted(self) -> pd.DataFrame:
        return counted(self.rows)

    @property
    def concepts(self) -> list[str]:
        return list(self.rows["concept"].unique())

    def methods(self, rows: pd.DataFrame | None = None) -> list[str]:
        """Those with scores, in the suite's order, then those that only the scores know."""
        scored = list((self.rows if rows is None else rows)["method"].unique())
        known = [method.name for method in self.suite.methods]
        return [name for name in known if name in scored] + [name for name in scored if name not in known]

    @property
    def lag_pairs(self) -> list[tuple[str, str]]:
        """(plain, LAG) of the methods that share a training and all else."""

        def drawn(method: Method) -> Method:
            return method.model_copy(update={"name": "", "about": "", "concepts": None, "lag": True})

        trained = [method for method in self.suite.methods if method.training]
        return [
            (plain.name, lag.name)
            for lag in trained
            if lag.lag
            for plain in trained
            if not plain.lag and drawn(plain) == drawn(lag)
        ]

    @property
    def categories(self) -> list[str]:
        """The papers' categories that the run has, in their order, then its own."""
        found = [name for name in self.rows["category"].unique() if isinstance(name, str) and name != WITHOUT]
        return [name for name in CATEGORIES if name in found] + [name for name in found if name not in CATEGORIES]

    def columns(self, names=tuple(COLUMNS), rows: pd.DataFrame | None = None) -> list[Column]:
        """Those of `names` that at least one row has a value in."""
        rows = self.rows if rows is None else rows
        found = [name for name in names if name in rows and pd.to_numeric(rows[name], errors="coerce").notna().any()]
        return [COLUMNS[name] for name in found]

    @property
    def problems(self) -> list[str]:
        """What the pieces told, equal sentences as one, as the first told it, with the first of those that met it."""
        found: dict[str, tuple[str, list[str]]] = {}
        for piece in self.pieces:
            for problem in map(str, piece.facts.get("problems") or []):
                names = found.setdefault(_OWN.sub("", problem), (problem, []))[1]
                names.append(f"{piece.subject}, {piece.training}")
        return [f"A problem met by {_some(list(dict.fromkeys(names)))}: {text}" for text, names in found.values()]


def counted(rows: pd.DataFrame) -> pd.DataFrame:
    """Those that prove something: of concepts that no setting was tuned on, if there are any."""
    untuned = rows[~rows["tuned"].astype(bool)]
    return untuned if len(untuned) else rows


def _some(names: list[str]) -> str:
    more = len(names) - NAMED
    return "; ".join(names[:NAMED]) + (f"; and {more} more" if more > 0 else "")
