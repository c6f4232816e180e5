"""A report's blocks as one HTML page with its style inside; only the images lie beside it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from .document import Block, Cell, Code, Figure, Heading, Number, Table, Text, Theirs, Verdict

STYLE = """
:root { color-scheme: light dark; --ink: #1d2024; --soft: #646b75; --line: #dde1e6; --ground: #fff; --band: #f5f6f8;
  --good: #17733a; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa2ad; --line: #333941; --ground: #16181b;
  --band: #1e2125; --good: #6ccb8b; --bad: #ff8a80; } }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 76rem; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; } p { max-width: 50rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .875rem; }
th, td { padding: .36rem .75rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { background: var(--band); font-weight: 600; vertical-align: bottom; }
td { font-variant-numeric: tabular-nums; } td small { color: var(--soft); white-space: nowrap; display: block; }
td:first-child { font-weight: 500; white-space: nowrap; } tbody tr:hover { background: var(--band); }
.theirs, td:first-child.theirs { color: var(--soft); font-style: italic; font-weight: 400; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
.unclear, .meaning, figcaption { color: var(--soft); } .meaning, figcaption { font-size: .875rem; }
figure { margin: 1.2rem 0; } img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
pre { background: var(--band); padding: .8rem 1rem; border-radius: 6px; overflow-x: auto; font-size: .85rem; }
"""


def as_html(title: str, blocks: Sequence[Block]) -> str:
    name = escape(title)
    body = "\n".join(map(_block, blocks))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{name}</h1>\n{body}\n</body>\n</html>\n"
    )


def _block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{escape(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        return f"<p>{escape(block.text)}</p>"
    if isinstance(block, Code):
        return f"<pre>{escape(block.text)}</pre>"
    if isinstance(block, Figure):
        caption = escape(block.caption)
        image = f'<img src="{escape(quote(block.file))}" alt="{caption}">'
        return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
    return _table(block)


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    body = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n'
        f'<p class="meaning">{escape(table.meaning)}</p>'
    )


def _cell(cell: Cell) -> str:
    if cell is None:
        return "<td>–</td>"
    if isinstance(cell, Number):
        interval = f"<small>{escape(cell.interval)}</small>" if cell.interval else ""
        return f"<td>{escape(cell.text)}{interval}</td>"
    if isinstance(cell, Theirs):
        return f'<td class="theirs">{escape(cell.text)}</td>'
    if isinstance(cell, Verdict):
        return f'<td class="{cell.kind}">{escape(cell.text)}</td>'
    return f"<td>{escape(cell)}</td>"
