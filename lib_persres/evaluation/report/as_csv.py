"""A run's score rows, and the summary of each method and column, as CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..statistics import Interval, bootstrap, by_concept
from .columns import counted, for_column, present

SUMMARY = ("method", "column", "mean", "low", "high", "concepts")


def summarise(rows: Iterable[Mapping], methods: Sequence[str]) -> dict[tuple[str, str], Interval]:
    """(method, column) -> mean over its concepts with the interval."""
    rows = counted(rows)
    found = {}
    for column in present(rows):
        scores = by_concept(for_column(rows, column.name), column.name)
        for method in methods:
            if method in scores:
                found[method, column.name] = bootstrap(list(scores[method].values()))
    return dict(sorted(found.items(), key=lambda item: methods.index(item[0][0])))


def write_scores(path: Path, rows: Sequence[Mapping]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def write_summary(path: Path, summary: Mapping[tuple[str, str], Interval]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(SUMMARY)
        for (method, column), found in summary.items():
            ends = ["" if math.isnan(end) else f"{end:.6g}" for end in (found.low, found.high)]
            writer.writerow([method, column, f"{found.mean:.6g}", *ends, found.count])
