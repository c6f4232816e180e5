"""How far a long work is: a bar on a terminal; elsewhere, in a log or a pipe, a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from tqdm import tqdm

Bar: TypeAlias = "Lines | tqdm"

EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


def progress_bar(total: int | None, unit: str, description: str = "") -> Bar:
    """On stderr, with rate and remaining time. tqdm's, or what of it is used here: `Lines`."""
    if not sys.stderr.isatty():
        return Lines(total, unit, description)
    from tqdm import tqdm

    return tqdm(total=total, unit=f" {unit}", desc=description or None, file=sys.stderr, dynamic_ncols=True)


class Lines:
    """A line on stderr at most every EVERY seconds, and one at the end.

    n: what is done. total: of how much; None: not known yet. A context manager, as tqdm's bars are.
    """

    def __init__(
        self, total: int | None, unit: str, description: str = "", clock: Callable[[], float] = time.monotonic
    ):
        self.total, self.n = total, 0
        self._unit, self._description, self._postfix = unit, description, ""
        self._clock, self._started = clock, clock()
        self._told, self._told_at = 0, self._started

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def set_description_str(self, text: str, refresh: bool = True) -> None:
        self._description = text

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        self._postfix = text

    def update(self, n: int = 1) -> None:
        self.n += n
        if self._clock() - self._told_at >= EVERY:
            self._tell()

    def close(self) -> None:
        if self.n > self._told:
            self._tell()

    def _tell(self) -> None:
        self._told, self._told_at = self.n, self._clock()
        seconds = self._told_at - self._started
        parts = [f"{self.n} {self._unit}" if self.total is None else f"{self.n} of {self.total} {self._unit}"]
        parts.append(f"{_time(seconds)} gone")
        if self.total is not None and 0 < self.n < self.total:
            parts.append(f"{_time(seconds / self.n * (self.total - self.n))} left")
        if self._postfix:
            parts.append(self._postfix)
        start = f"{self._description}: " if self._description else ""
        print(start + ", ".join(parts), file=sys.stderr, flush=True)


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
