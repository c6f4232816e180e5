"""Contact sheets: a concept's photos, then a prompt in each row, a method in each column, all from the same noise."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ...errors import PersresError
from ...training.images import load_photo
from .folder import Run
from .tables import categories_of

CONCEPTS = 3
PROMPTS = 6
METHODS = 10
SIDE = 128
GAP = 6
LEFT = 170
HEAD = 34
INK, SOFT, EMPTY = "#1d2024", "#646b75", "#eceef1"


def chosen_concepts(run: Run, count: int = CONCEPTS) -> list[str]:
    """The first concepts of those that most methods have drawn."""
    drawn = {name: {row["method"] for row in run.rows if row["concept"] == name} for name in run.concepts}
    return sorted(drawn, key=lambda name: -len(drawn[name]))[:count]


def chosen_prompts(run: Run, concept: str, count: int = PROMPTS) -> list[tuple[int, str]]:
    """(index, text) of a prompt of each category, then of the first others."""
    prompts: dict[int, dict] = {}
    for row in run.rows:
        if row["concept"] == concept and row.get("category") != "without V*":
            prompts.setdefault(row["prompt"], row)
    firsts = []
    for category in categories_of(run):
        found = [index for index in sorted(prompts) if prompts[index].get("category") == category]
        firsts += found[:1]
    rest = [index for index in sorted(prompts) if index not in firsts]
    return [(index, str(prompts[index].get("text", ""))) for index in (firsts + rest)[:count]]


def sheet(run: Run, concept: str, path: Path) -> str | None:
    """Draw a concept's sheet; its caption, or None where it has no pictures."""
    prompts = chosen_prompts(run, concept)
    methods, grid = [], []
    for method in (m["name"] for m in run.methods):
        files = [run.picture(concept, method, index, 0) for index, _ in prompts]
        if any(files):
            methods.append(method)
            grid.append(files)
    if not methods:
        return None
    left_out = methods[METHODS:]
    methods, grid = methods[:METHODS], grid[:METHODS]
    references = run.references(concept)[: max(len(methods), 3)]
    draw_page(prompts, methods, grid, references).save(path, quality=90)
    said = f"{concept}: " + ("its photos above; " if references else "(its photos were not found) ")
    said += "a prompt in each row, a method in each column, every row from the same noise."
    if left_out:
        said += f" Left out for want of room: {', '.join(left_out)}."
    return said


def draw_page(
    prompts: Sequence[tuple[int, str]], methods: Sequence[str], grid: Sequence[Sequence[Path | None]],
    references: Sequence[Path],
) -> Image.Image:  # fmt: skip
    step = SIDE + GAP
    top = GAP + (step + GAP if references else 0)
    across = max(len(methods), len(references))
    page = Image.new("RGB", (LEFT + step * across + GAP, top + HEAD + step * len(prompts)), "white")
    draw = ImageDraw.Draw(page)
    if references:
        _write(draw, (GAP, GAP), "photos of the concept", 24, INK)
    for column, file in enumerate(references):
        _paste(page, file, LEFT + column * step, GAP)
    for column, method in enumerate(methods):
        _write(draw, (LEFT + column * step, top), method, 19, INK)
    for row, (_, text) in enumerate(prompts):
        y = top + HEAD + row * step
        _write(draw, (GAP, y), text, 24, SOFT)
        for column, files in enumerate(grid):
            _paste(page, files[row], LEFT + column * step, y)
    return page


def _paste(page: Image.Image, file: Path | None, x: int, y: int) -> None:
    try:
        if file is None:
            raise PersresError
        photo = load_photo(file, min_side=1)
        picture = photo.image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    except PersresError:  # a picture that is not there, or half-written, is an empty place
        picture = Image.new("RGB", (SIDE, SIDE), EMPTY)
    page.paste(picture, (x, y))


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, width: int, colour: str) -> None:
    try:
        font = ImageFont.load_default(13)
    except TypeError:  # Pillow before 10.1 has one size
        font = ImageFont.load_default()
        text = text.encode("latin-1", "replace").decode("latin-1")
    draw.multiline_text(place, textwrap.fill(text, width), colour, font=font, spacing=3)
