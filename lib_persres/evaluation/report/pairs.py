"""Two concepts in one picture: a table of all pairs, and the contact sheet of one."""

from __future__ import annotations

from pathlib import Path

from .columns import Column, present
from .document import Number, Table
from .folder import Run
from .sheets import METHODS, PROMPTS, draw_page
from .tables import INTERVALS, meanings, method_means

_TRUTH = "by the Toybox's judge"

COLUMNS = {
    c.name: c
    for c in (
        Column("clip_text", "CLIP text", "2.5·max(cos, 0) of picture and prompt without V1* and V2* in CLIP"),
        Column("clip_image", "CLIP image", "the mean of the two next ones"),
        Column("clip_image_first", "CLIP image, first", "mean cosine with the first concept's photos in CLIP"),
        Column("clip_image_second", "CLIP image, second", "mean cosine with the second concept's photos in CLIP"),
        Column("dino_image", "DINO image", "the mean of the two next ones"),
        Column("dino_image_first", "DINO image, first", "mean cosine with the first concept's photos in DINO"),
        Column("dino_image_second", "DINO image, second", "mean cosine with the second concept's photos in DINO"),
        Column("both", "both there", f"share of pictures with a thing of each class ({_TRUTH})"),
        Column("own", "own skin", f"share of the concepts that are there in their own skin ({_TRUTH})"),
        Column("other", "other's skin", f"share of the concepts that wear the other's skin ({_TRUTH})"),
        Column("each_own", "each its own", f"share of pictures where both are there, each in its own skin ({_TRUTH})"),
        Column("background", "background", f"share of pictures with the prompt's background ({_TRUTH})"),
    )
}


def table(run: Run) -> Table | None:
    """Every method that drew pairs; None where none did."""
    columns = [COLUMNS[c.name] for c in present(run.pair_rows, tuple(COLUMNS))]
    if not columns:
        return None
    means = method_means(run.pair_rows, columns)
    lines = []
    for method in _methods(run):
        count = len({row["concept"] for row in run.pair_rows if row["method"] == method})
        found = [means.get((method, c.name)) for c in columns]
        numbers = [None if value is None else Number.of(value, c.digits) for value, c in zip(found, columns)]
        lines.append([method, str(count), *numbers])
    about = INTERVALS.replace("over concepts", "over pairs")
    return Table(["method", "pairs", *(c.label for c in columns)], lines, f"{about} {meanings(columns)}")


def sheet(run: Run, path: Path) -> str | None:
    """Draw the first pair's sheet; its caption, or None where it has no pictures."""
    pair = run.pair_rows[0]["concept"]
    texts: dict[int, str] = {}
    for row in run.pair_rows:
        if row["concept"] == pair:
            texts.setdefault(row["prompt"], str(row.get("text", "")))
    prompts = sorted(texts.items())[:PROMPTS]
    methods, grid = [], []
    for method in _methods(run)[:METHODS]:
        files = [run.pair_picture(pair, method, index, 0) for index, _ in prompts]
        if any(files):
            methods.append(method)
            grid.append(files)
    if not methods:
        return None
    photos = [run.references(name)[:2] for name in pair.split("+")[:2]]
    draw_page(prompts, methods, grid, sum(photos, [])).save(path, quality=90)
    return f"{pair}: photos of the two above; a prompt in each row, a method in each column, each row from one noise."


def _methods(run: Run) -> list[str]:
    """Those that drew pairs, in the suite's order."""
    drawn = {row["method"] for row in run.pair_rows}
    return [method["name"] for method in run.methods if method["name"] in drawn]
