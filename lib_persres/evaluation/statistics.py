"""Bootstrap confidence intervals, and whether one method is above another beyond doubt.

The unit is the concept: pictures and prompts of one concept are not independent, so each concept counts once, by
its mean, and concepts are what is drawn anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean with its percentile interval. count: concepts. low and high are nan where there is one concept only."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def clear(self) -> bool:
        """Whether 0 lies outside."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


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
    if len(array) == 1:
        return Interval(float(array[0]), math.nan, math.nan, 1)
    rng = np.random.default_rng(seed)
    means = array[rng.integers(len(array), size=(draws, len(array)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(array.mean()), float(low), float(high), len(array))


def paired_difference(a: Mapping[str, float], b: Mapping[str, float], **options) -> Interval:
    """The mean of a - b over the concepts that both score; a, b: concept -> score."""
    shared = [name for name in a if name in b and math.isfinite(a[name]) and math.isfinite(b[name])]
    if not shared:
        raise ValueError("the two have no concept in common")
    return bootstrap([a[name] - b[name] for name in shared], **options)


@dataclass(frozen=True)
class Ordering:
    """The statement "`higher` > `lower` in `score`", as measured."""

    higher: str
    lower: str
    score: str
    difference: Interval
    source: str = ""
    """The table or figure of the paper that states it."""

    @classmethod
    def test(
        cls,
        higher: str,
        lower: str,
        score: str,
        scores: Mapping[str, Mapping[str, float]],
        *,
        source: str = "",
        **options,
    ) -> Ordering:
        """scores: method -> concept -> value of the score; the concepts are paired."""
        return cls(higher, lower, score, paired_difference(scores[higher], scores[lower], **options), source)

    @property
    def verdict(self) -> str:
        """ "reproduced" and "reversed" are clear of 0; "unclear" is not."""
        if not self.difference.clear:
            return "unclear"
        return "reproduced" if self.difference.mean > 0 else "reversed"

    @property
    def reproduced(self) -> bool:
        return self.verdict == "reproduced"

    def __str__(self) -> str:
        return f"{self.higher} > {self.lower} in {self.score}: {self.difference}, {self.verdict}"


def by_concept(rows: Sequence[Mapping], score: str, **where) -> dict[str, dict[str, float]]:
    """method -> concept -> mean of `score` over the rows {"method", "concept", score, …} that match `where`.

    A value of `where` may be a tuple of allowed ones. Rows without the score (missing, None, nan) do not count.
    """
    sums: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        value = row.get(score)
        if value is None or not math.isfinite(value):
            continue
        if all(row.get(key) in (want if isinstance(want, tuple) else (want,)) for key, want in where.items()):
            sums.setdefault(row["method"], {}).setdefault(row["concept"], []).append(float(value))
    return {
        method: {concept: float(np.mean(values)) for concept, values in concepts.items()}
        for method, concepts in sums.items()
    }
