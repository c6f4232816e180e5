"""What the pages state of the code, filled in from it between marks such as <!-- recipes --> and <!-- /recipes -->.

python -m benchmarks.pages      fills all; a test compares
"""

from __future__ import annotations

import sys
from pathlib import Path

from lib_persres.commands import option_table, recipe_table

from . import architecture, figures

DOCS = Path(__file__).resolve().parents[1] / "docs"


def figure_table() -> str:
    """The figures with what was last measured, in Markdown."""
    record = figures.read_record(figures.RECORD)
    rows = ["| figure | goal | measured | reached | what |", "| --- | --- | --- | --- | --- |"]
    for figure in figures.FIGURES:
        last = record.get(figure.name, {})
        value, note = last.get("value"), last.get("note")
        shown, reached = "never", "-"
        if value is not None:
            shown = str(value) if isinstance(value, int) else f"{value:.4g}"
            reached = "yes" if figure.goal.reached(value) else "**no**"
        what = f"{figure.meaning}; {note}" if note else figure.meaning
        rows.append(f"| `{figure.name}` | {figure.goal_text} | {shown} | {reached} | {what} |")
    return "\n".join(rows)


FILLED = {
    "recipes": ("recipes-table.md", recipe_table.as_text),
    "options": ("recipes-table.md", option_table.as_text),
    "figures": ("figures.md", figure_table),
    "house": ("architecture.md", architecture.house),
    "core": ("architecture.md", architecture.core),
}
"""By the mark: the page, and what belongs between its marks."""


def fill(text: str, mark: str, content: str) -> str:
    """The page's text with the content between its marks. ValueError where it has not one pair of them."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"The page needs one {begin} and, after it, one {end}.")
    return f"{text.partition(begin)[0]}{begin}\n\n{content}\n\n{end}{text.partition(end)[2]}"


def main() -> int:
    for mark, (name, content) in FILLED.items():
        path = DOCS / name
        before = path.read_text(encoding="utf-8")
        after = fill(before, mark, content())
        if after != before:
            path.write_text(after, encoding="utf-8", newline="\n")
            print(f"docs/{name}: {mark}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
