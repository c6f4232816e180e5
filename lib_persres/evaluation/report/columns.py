"""The scores that a report knows (columns.csv): what each is called and means; which are "image", which "text"."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ..datasets.dataset import WITHOUT
from ..statistics import means


class Column(NamedTuple):
    """A score. digits: decimals shown."""

    name: str
    label: str
    digits: int
    meaning: str


def _read(of: str) -> dict[str, Column]:
    with open(Path(__file__).with_suffix(".csv"), encoding="utf-8", newline="") as file:
        rows = [row[1:] for row in csv.reader(file) if row[0] == of]
    return {name: Column(name, label, int(digits), meaning) for name, label, digits, meaning in rows}


COLUMNS, OF_PAIRS = _read("concepts"), _read("pairs")
STAND_FOR = {"image": ("clip_image", "dino_image", "identity"), "text": ("clip_text", "obeyed")}
"""The columns that stand for a score of the papers, the first to be had first."""


def by_concept(rows: pd.DataFrame, name: str, **where) -> pd.DataFrame:
    """`statistics.means` without the prompts that hold no V*, unless the score is theirs."""
    return means(rows[(rows["category"] == WITHOUT) == (name == "drift")], name, **where)


def meanings(columns: Sequence[Column]) -> str:
    return " ".join(f"{c.label}: {c.meaning}." for c in columns)
