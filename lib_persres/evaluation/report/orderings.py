"""The orderings that the papers state, tested on a run's scores.

The rule: an ordering is tested on every column that stands for its score and that both methods have. It counts as
reproduced if the first of these columns says so clear of its interval and no other says the reverse clear of its.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..statistics import Ordering, by_concept
from .columns import columns_for, counted, for_column

RULE = (
    "An ordering is tested on every score that stands for it: text on CLIP text, and on the Toybox on the share of "
    "prompts obeyed; image on CLIP image and DINO image, and on the Toybox on the share of recognised things. It "
    "counts as reproduced if the first score that exists reproduces it clear of its 95% interval and no other score "
    "reverses it clear of its own. Concepts are paired."
)


@dataclass(frozen=True)
class Tested:
    """An ordering of the suite with what each of its columns says, in the columns' order."""

    higher: str
    lower: str
    score: str
    categories: tuple[str, ...] | None
    source: str
    found: tuple[Ordering, ...]
    """`Ordering.score` is the column; empty where the two methods have no column and concept in common."""

    @property
    def verdict(self) -> str:
        """not measured, reproduced, contradicted (by another column than the first), unclear or reversed."""
        if not self.found:
            return "not measured"
        verdicts = [ordering.verdict for ordering in self.found]
        if verdicts[0] == "reproduced" and "reversed" in verdicts:
            return "contradicted"
        return verdicts[0]

    @property
    def reproduced(self) -> bool:
        return self.verdict == "reproduced"

    @property
    def statement(self) -> str:
        where = f" on {', '.join(self.categories)}" if self.categories else ""
        return f"{self.higher} > {self.lower} in {self.score}{where}"


def orderings(rows: Iterable[Mapping], suite: Mapping) -> list[Tested]:
    """Every ordering of the suite (as in run.json), tested on the score rows of a run."""
    rows = counted(rows)
    return [_test(rows, ordering) for ordering in suite.get("orderings", [])]


def reproduced(rows: Iterable[Mapping], suite: Mapping) -> int:
    """How many orderings of the suite are reproduced, by the rule above."""
    return sum(tested.reproduced for tested in orderings(rows, suite))


def _test(rows: list[Mapping], stated: Mapping) -> Tested:
    higher, lower = stated["higher"], stated["lower"]
    categories = tuple(stated.get("categories") or ()) or None
    where = {"category": categories} if categories else {}
    source = stated.get("source") or ""
    found = []
    for column in columns_for(stated["score"]):
        scores = by_concept(for_column(rows, column), column, method=(higher, lower), **where)
        if scores.get(higher, {}).keys() & scores.get(lower, {}).keys():
            found.append(Ordering.test(higher, lower, column, scores, source=source))
    return Tested(higher, lower, stated["score"], categories, source, tuple(found))
