"""A report's page: its parts as data, written as Markdown and as HTML by the templates beside this file."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import jinja2

from ..statistics import Interval

TEMPLATES = Path(__file__).parent / "templates"
_SPECIAL = re.compile(r"([\\|*_`<>\[\]#])")


class Cell(NamedTuple):
    """kind: "", "theirs" (published), or what a verdict is: good, bad, unclear. small: an interval."""

    text: str
    small: str = ""
    kind: str = ""


class Table(NamedTuple):
    """meaning: one line that says what the columns are."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str | None]]
    meaning: str


class Figure(NamedTuple):
    """file: the image's name in the report's folder."""

    file: str
    caption: str


class Code(NamedTuple):
    text: str


Block = str | Code | Figure | Table


class Section(NamedTuple):
    title: str
    blocks: Sequence[Block]


def number(value: float, digits: int = 3, low: float = math.nan, high: float = math.nan, signed: bool = False) -> Cell:
    def shown(value: float) -> str:
        text = f"{value:{'+' if signed else ''}.{digits}f}"
        return text if float(text) else f"{0:.{digits}f}"  # no "-0.000"

    return Cell(shown(value), "" if math.isnan(low) else f"[{shown(low)}, {shown(high)}]")


def interval(found: Interval | None, digits: int = 3, signed: bool = False) -> Cell | None:
    return None if found is None else number(found.mean, digits, found.low, found.high, signed)


def verdict(text: str) -> Cell:
    return Cell(text, kind={"reproduced": "good", "reversed": "bad", "contradicted": "bad"}.get(text, "unclear"))


def theirs(text: str) -> Cell:
    """What a paper published."""
    return Cell(text, kind="theirs")


def render(template: str, **values) -> str:
    """ "report.md" or "report.html"."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"url": quote, "md": lambda text: _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))}
    kinds = (Cell, Code, Figure)
    environment.tests |= {kind.__name__.lower(): lambda x, kind=kind: isinstance(x, kind) for kind in kinds}
    return environment.get_template(f"{template}.j2").render(**values)
