"""Contact sheets: a subject's photos, then a prompt in each row, a method in each column, all from the same noise."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from PIL import Image, ImageDraw, ImageFont

from ...errors import PersresError
from ...overlay import overlay
from ...training.images import load_photo
from ..datasets.dataset import WITHOUT
from ..run_folder import picture_name
from .results import Results

CONCEPTS = 3
PROMPTS = 6
METHODS = 10
SIDE = 128
GAP = 6
LEFT = 170
HEAD = 34
INK, SOFT, EMPTY = "#1d2024", "#646b75", "#eceef1"

Prompts = Sequence[tuple[int, str]]
"""(index, text)"""
Grid = Sequence[tuple[str, Sequence[Path | Image.Image | None]]]
"""A column each: its name and a picture for each prompt."""


def chosen_concepts(results: Results, count: int = CONCEPTS) -> list[str]:
    """The first concepts of those that most methods have drawn."""
    drawn = results.rows.groupby("concept", sort=False)["method"].nunique()
    return list(drawn.sort_values(ascending=False, kind="stable").index[:count])


def chosen_prompts(rows: pd.DataFrame, categories: Sequence[str]) -> Prompts:
    """A prompt of each category, then of the first others."""
    prompts = rows[rows["category"] != WITHOUT].drop_duplicates("prompt").sort_values("prompt").set_index("prompt")
    firsts = [index for name in categories for index in prompts.index[prompts["category"] == name][:1]]
    rest = [index for index in prompts.index if index not in firsts]
    return [(int(index), str(prompts["text"][index])) for index in (firsts + rest)[:PROMPTS]]


def sheet(results: Results, subject: str, path: Path) -> str | None:
    """Draw a concept's or a pair's sheet; its caption, or None where it has no pictures."""
    is_pair = subject in set(results.pairs["concept"])
    table = results.pairs if is_pair else results.rows
    rows = table[table["concept"] == subject]
    prompts = chosen_prompts(rows, results.categories)
    columns = []
    for method in results.methods(rows):
        files = [results.run.picture(subject, method, index, 0) for index, _ in prompts]
        if any(files):
            columns.append((method, files))
    if not columns:
        return None
    left_out = [method for method, _ in columns[METHODS:]]
    columns = columns[:METHODS]
    columns += _acting(results, subject, prompts, [method for method, _ in columns])
    names = subject.split("+")[:2] if is_pair else [subject]
    each = 2 if is_pair else max(len(columns), 3)
    photos = [file for name in names for file in results.run.references(name)[:each]]
    draw_page(prompts, columns, photos).save(path, quality=90)
    whose = "photos of the two above; " if is_pair else "its photos above; "
    said = f"{subject}: {whose if photos else '(its photos were not found) '}"
    said += "a prompt in each row, a method in each column, every row from the same noise."
    if len(columns) > len(columns[:METHODS]) or any(name.startswith("where ") for name, _ in columns):
        said += " The last column: the mean of LAG's masks, in colour where the residual acts, grey where it does not."
    return said + (f" Left out for want of room: {', '.join(left_out)}." if left_out else "")


def _acting(results: Results, subject: str, prompts: Prompts, methods: Sequence[str]) -> list:
    """A column for the first method under LAG whose masks were kept: where it let the residual act."""
    by_name = {method.name: method for method in results.suite.methods}
    for name in methods:
        if name in by_name and by_name[name].lag:
            folder = results.run.piece(subject, by_name[name].piece)
            masks = folder.masks(name)
            pictures = []
            for index, _ in prompts:
                file, mask = folder.picture(name, picture_name(index, 0)), masks.get(picture_name(index, 0))
                image = _opened(file) if mask is not None else None
                pictures.append(image and overlay(image, torch.from_numpy(mask).float()[None]))
            if any(pictures):
                return [(f"where {name} acts", pictures)]
    return []


def draw_page(prompts: Prompts, columns: Grid, photos: Sequence[Path]) -> Image.Image:
    step = SIDE + GAP
    top = GAP + (step + GAP if photos else 0)
    across = max(len(columns), len(photos))
    page = Image.new("RGB", (LEFT + step * across + GAP, top + HEAD + step * len(prompts)), "white")
    draw = ImageDraw.Draw(page)
    if photos:
        _write(draw, (GAP, GAP), "photos of the concept", 24, INK)
    for column, file in enumerate(photos):
        _paste(page, file, LEFT + column * step, GAP)
    for column, (name, _) in enumerate(columns):
        _write(draw, (LEFT + column * step, top), name, 19, INK)
    for row, (_, text) in enumerate(prompts):
        y = top + HEAD + row * step
        _write(draw, (GAP, y), text, 24, SOFT)
        for column, (_, pictures) in enumerate(columns):
            _paste(page, pictures[row], LEFT + column * step, y)
    return page


def _opened(picture: Path | Image.Image | None) -> Image.Image | None:
    """None for a picture that is not there, or half-written."""
    if isinstance(picture, Path):
        try:
            return load_photo(picture, min_side=1).image
        except PersresError:
            return None
    return picture


def _paste(page: Image.Image, picture: Path | Image.Image | None, x: int, y: int) -> None:
    image = _opened(picture) or Image.new("RGB", (SIDE, SIDE), EMPTY)
    page.paste(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, y))


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, width: int, colour: str) -> None:
    draw.multiline_text(place, textwrap.fill(text, width), colour, font=ImageFont.load_default(13), spacing=3)
