"""What a report is made of: a run's suite, its rows of scores as tables, its finished pieces."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from ...errors import PersresError
from ..datasets.dataset import CATEGORIES, TOGETHER, WITHOUT
from ..run_folder import PieceFolder, RunFolder, key, read_json
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
    said: list[str]

    @classmethod
    def read(cls, run: RunFolder) -> Results:
        """PersresError where the folder is no run or has no scores yet."""
        settings = run.load()
        every = [row for subject in run.scored() for row in run.rows(subject)]
        rows = list({key(row): row for row in every}.values())
        table, twice = pd.DataFrame(rows, columns=None if rows else ["category"]), len(every) - len(rows)
        together = table["category"] == TOGETHER
        if together.all():
            raise PersresError(f"{run.root} has no scores yet: make them with `evaluate score {run.root}`.")
        suite, pieces = Suite.from_dict(settings["suite"], str(run.run_file)), run.pieces()
        said = [f"{twice} pictures have more than one row of scores; the last row counts."] if twice else []
        said += [] if pieces else ["The folder has no finished piece, so seconds and memory are not known."]
        classes = read_json(run.classes_file, {}).get("concepts", {})
        return cls(run, settings, suite, table[~together], table[together], pieces, classes, said)

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
        known = [method.name for method in self.suite.methods if method.name in scored]
        return known + [name for name in scored if name not in known]

    @property
    def lag_pairs(self) -> list[tuple[str, str]]:
        """(plain, LAG) of the methods that share a training and all else."""

        def drawn(method: Method) -> Method:
            return method.model_copy(update={"name": "", "about": "", "concepts": None, "lag": True})

        trained = [method for method in self.suite.methods if method.training]
        both = [(plain, lag) for lag in trained if lag.lag for plain in trained if not plain.lag]
        return [(plain.name, lag.name) for plain, lag in both if drawn(plain) == drawn(lag)]

    @property
    def categories(self) -> list[str]:
        """The papers' categories that the run has, in their order, then its own."""
        found = [name for name in self.rows["category"].unique() if isinstance(name, str) and name != WITHOUT]
        return [name for name in CATEGORIES if name in found] + [name for name in found if name not in CATEGORIES]

    def columns(self, names: Iterable[str], rows: pd.DataFrame | None = None) -> list[Column]:
        """Those of `names` that at least one row has a value in."""
        rows = self.rows if rows is None else rows
        found = [name for name in names if name in rows and pd.to_numeric(rows[name], errors="coerce").notna().any()]
        return [COLUMNS[name] for name in found]

    @property
    def problems(self) -> list[str]:
        """What the pieces told, equal sentences as one, as the first told it, with the first of those that met it."""
        found: dict[str, tuple[str, dict[str, None]]] = {}
        for piece in self.pieces:
            for problem in map(str, piece.facts.get("problems") or []):
                found.setdefault(_OWN.sub("", problem), (problem, {}))[1][f"{piece.subject}, {piece.training}"] = None
        told = []
        for problem, names in found.values():
            more = f"; and {len(names) - NAMED} more" if len(names) > NAMED else ""
            told.append(f"A problem met by {'; '.join(list(names)[:NAMED])}{more}: {problem}")
        return told


def counted(rows: pd.DataFrame) -> pd.DataFrame:
    """Those that prove something: of concepts that no setting was tuned on, if there are any."""
    untuned = rows[~rows["tuned"].astype(bool)]
    return untuned if len(untuned) else rows
