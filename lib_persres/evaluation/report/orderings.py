"""The orderings that the papers state, tested on a run's scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from ..statistics import Interval, difference
from ..suite import Claim
from .columns import STAND_FOR, by_concept

RULE = (
    "An ordering is tested on every score that stands for it: text on CLIP text, and on the Toybox on the share of "
    "prompts obeyed; image on CLIP image and DINO image, and on the Toybox on the share of recognised things. It "
    "counts as reproduced if the first score that exists reproduces it clear of its 95% interval and no other score "
    "reverses it clear of its own. Concepts are paired."
)


class Tested(NamedTuple):
    """An ordering of the suite with the difference in each of its columns, in the columns' order.

    found: empty where the two methods have no column and concept in common.
    """

    claim: Claim
    found: dict[str, Interval]

    @property
    def verdict(self) -> str:
        """not measured, reproduced, contradicted (by another column than the first), unclear or reversed."""
        verdicts = [found.verdict for found in self.found.values()] or ["not measured"]
        return "contradicted" if verdicts[0] == "reproduced" and "reversed" in verdicts else verdicts[0]


def orderings(rows: pd.DataFrame, claims: Sequence[Claim]) -> list[Tested]:
    """Every claim, tested on the rows that count."""
    made = []
    for claim in claims:
        where = {"category": claim.categories} if claim.categories else {}
        tables = {name: by_concept(rows, name, **where) for name in STAND_FOR[claim.score]}
        found = {name: difference(table, claim.higher, claim.lower) for name, table in tables.items()}
        made.append(Tested(claim, {name: one for name, one in found.items() if one}))
    return made
