"""A report as data: headings, texts, tables and figures, which are then written as Markdown and as HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..statistics import Interval


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Figure:
    """file: the image's name in the report's folder."""

    file: str
    caption: str


@dataclass(frozen=True)
class Number:
    """A number with its interval, if it has one."""

    mean: float
    digits: int = 3
    low: float = math.nan
    high: float = math.nan
    signed: bool = False

    @classmethod
    def of(cls, interval: Interval, digits: int = 3, signed: bool = False) -> Number:
        return cls(interval.mean, digits, interval.low, interval.high, signed)

    @property
    def text(self) -> str:
        return self._shown(self.mean)

    @property
    def interval(self) -> str:
        """ "[0.70, 0.74]", or nothing."""
        if math.isnan(self.low):
            return ""
        return f"[{self._shown(self.low)}, {self._shown(self.high)}]"

    def _shown(self, value: float) -> str:
        text = f"{value:{'+' if self.signed else ''}.{self.digits}f}"
        # no "-0.000"
        return text if float(text) else f"{0:.{self.digits}f}"


@dataclass(frozen=True)
class Verdict:
    text: str

    @property
    def kind(self) -> str:
        return {"reproduced": "good", "reversed": "bad", "contradicted": "bad"}.get(self.text, "unclear")


@dataclass(frozen=True)
class Theirs:
    """A cell that shows what a paper published."""

    text: str


Cell = str | Number | Verdict | Theirs | None


@dataclass(frozen=True)
class Table:
    """meaning: one line that says what the columns are."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    meaning: str


Block = Heading | Text | Code | Figure | Table
