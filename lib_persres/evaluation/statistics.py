"""Bootstrap confidence intervals, and whether one method is above another beyond doubt.

The unit is the concept: pictures and prompts of one concept are not independent, so each concept counts once, by
its mean, and concepts are what is drawn anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

DRAWS = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean with its percentile interval. count: concepts. low and high are nan where there is one concept only."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def verdict(self) -> str:
        """Of the statement that this difference is above 0: "reproduced" and "reversed" are clear of 0."""
        if self.low > 0:
            return "reproduced"
        return "reversed" if self.high < 0 else "unclear"


def bootstrap(values: Sequence[float], *, level: float = 0.95, draws: int = DRAWS, seed: int = 0) -> Interval:
    """The mean of `values`, one for each concept, with the percentiles (1 ± level)/2 of resampled means.

    The same values and seed give the same interval.
    """
    array = np.asarray(list(values), float)
    if array.ndim != 1 or not len(array):
        raise ValueError("there are no values to take the mean of")
    if not np.isfinite(array).all():
        raise ValueError("a value is not finite: leave concepts without this score out")
    if not 0 < level < 1:
        raise ValueError(f"the level {level} is not between 0 and 1")
    mean = float(array.mean())
    if len(array) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    options = {"confidence_level": level, "n_resamples": draws, "method": "percentile"}
    found = stats.bootstrap((array,), np.mean, random_state=np.random.default_rng(seed), **options)
    low, high = map(float, found.confidence_interval)
    return Interval(mean, low, high, len(array))


def means(rows: pd.DataFrame, score: str, **where) -> pd.DataFrame:
    """The mean of `score` of each concept (index) by each method (columns), over the rows that match `where`.

    A value of `where` may be a list of allowed ones. Rows without the score do not count.
    """
    if score not in rows:
        return pd.DataFrame()
    for name, wanted in where.items():
        rows = rows[rows[name].isin(wanted if isinstance(wanted, (list, tuple)) else [wanted])]
    values = pd.to_numeric(rows[score], errors="coerce").replace([math.inf, -math.inf], math.nan)
    rows = rows.assign(value=values).dropna(subset="value")
    return rows.pivot_table(values="value", index="concept", columns="method", aggfunc="mean", sort=False)


def of_methods(table: pd.DataFrame) -> dict[str, Interval]:
    """Each method's mean over its own concepts."""
    return {method: bootstrap(table[method].dropna()) for method in table}


def difference(table: pd.DataFrame, higher: str, lower: str, **options) -> Interval | None:
    """The mean of higher - lower over the concepts that both have; None where they have none in common."""
    if higher not in table or lower not in table:
        return None
    found = (table[higher] - table[lower]).dropna()
    return bootstrap(found, **options) if len(found) else None
