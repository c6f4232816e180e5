"""A report's blocks as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .document import Block, Cell, Code, Figure, Heading, Number, Table, Text, Theirs, Verdict

_SPECIAL = re.compile(r"([\\|*_`<>\[\]#])")


def as_markdown(title: str, blocks: Sequence[Block]) -> str:
    return "\n\n".join([f"# {escape(title)}", *map(_block, blocks)]) + "\n"


def escape(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {escape(block.text)}"
    if isinstance(block, Text):
        return escape(block.text)
    if isinstance(block, Code):
        return "\n".join(f"    {line}" for line in block.text.splitlines())
    if isinstance(block, Figure):
        return f"![{escape(block.caption)}]({block.file})\n\n*{escape(block.caption)}*"
    return _table(block)


def _table(table: Table) -> str:
    lines = [list(map(escape, table.columns)), ["---"] * len(table.columns)]
    lines += [list(map(_cell, row)) for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{escape(table.meaning)}"


def _cell(cell: Cell) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, Number):
        return escape(" ".join(filter(None, (cell.text, cell.interval))))
    if isinstance(cell, Theirs):
        return f"*{escape(cell.text)}*"
    if isinstance(cell, Verdict):
        return f"**{cell.text}**" if cell.kind == "good" else cell.text
    return escape(cell)
