"""The orderings that the papers state, tested on a run's scores.

The rule: an ordering is tested on every column that stands for its score and that both methods have. It counts as
reproduced if the first of these columns says so clear of its interval and no other says the reverse clear of its.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Tested:
    """An ordering of the suite with the difference in each of its columns, in the columns' order.

    found: empty where the two methods have no column and concept in common.
    """

    claim: Claim
    found: dict[str, Interval]

    @property
    def verdict(self) -> str:
        """not measured, reproduced, contradicted (by another column than the first), unclear or reversed."""
        verdicts = [found.verdict for found in self.found.values()]
        if not verdicts:
            return "not measured"
        if verdicts[0] == "reproduced" and "reversed" in verdicts:
            return "contradicted"
        return verdicts[0]

    @property
    def reproduced(self) -> bool:
        return self.verdict == "reproduced"


def orderings(rows: pd.DataFrame, claims: Sequence[Claim]) -> list[Tested]:
    """Every claim, tested on the rows that count."""
    return [_test(rows, claim) for claim in claims]


def _test(rows: pd.DataFrame, claim: Claim) -> Tested:
    where = {"category": claim.categories} if claim.categories else {}
    found = {
        name: difference(by_concept(rows, name, **where), claim.higher, claim.lower)
        for name in STAND_FOR[claim.score]
    }
    return Tested(claim, {name: one for name, one in found.items() if one})
