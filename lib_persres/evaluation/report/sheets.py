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

Pictures = Sequence[Image.Image | None]
Columns = dict[str, Pictures]
"""Name -> a picture for each prompt."""


def chosen_concepts(results: Results) -> list[str]:
    """The first concepts of those that most methods have drawn."""
    drawn = results.rows.groupby("concept", sort=False)["method"].nunique()
    return list(drawn.sort_values(ascending=False, kind="stable").index[:CONCEPTS])


def chosen_prompts(rows: pd.DataFrame, categories: Sequence[str]) -> dict[int, str]:
    """Index -> text of a prompt of each category, then of the first others."""
    prompts = rows[rows["category"] != WITHOUT].drop_duplicates("prompt").sort_values("prompt").set_index("prompt")
    firsts = [index for name in categories for index in prompts.index[prompts["category"] == name][:1]]
    rest = [index for index in prompts.index if index not in firsts]
    return {int(index): str(prompts["text"][index]) for index in (firsts + rest)[:PROMPTS]}


def sheet(results: Results, subject: str, path: Path) -> str | None:
    """Draw a concept's or a pair's sheet; its caption, or None where it has no pictures."""
    is_pair = subject in set(results.pairs["concept"])
    table = results.pairs if is_pair else results.rows
    rows = table[table["concept"] == subject]
    prompts = chosen_prompts(rows, results.categories)
    files = {m: [results.run.picture(subject, m, index, 0) for index in prompts] for m in results.methods(rows)}
    drawn = [method for method in files if any(files[method])]
    if not drawn:
        return None
    columns: Columns = {method: list(map(_opened, files[method])) for method in drawn[:METHODS]}
    masks = _masks(results, subject, prompts, columns)
    columns |= masks
    names, each = (subject.split("+")[:2], 2) if is_pair else ([subject], max(len(columns), 3))
    photos = [_opened(file) for name in names for file in results.run.references(name)[:each]]
    draw_page(prompts, columns, photos).save(path, quality=90)
    whose = "photos of the two above;" if is_pair else "its photos above;"
    said = [
        f"{subject}: {whose if photos else '(its photos were not found)'} a prompt in each row, a method in each "
        "column, every row from the same noise.",
        *(f"Last, {name}: in colour, by the mean of its masks; grey is the base model alone." for name in masks),
        *([f"Left out for want of room: {', '.join(drawn[METHODS:])}."] if drawn[METHODS:] else []),
    ]
    return " ".join(said)


def _masks(results: Results, subject: str, prompts: dict[int, str], columns: Columns) -> Columns:
    """Where the first method under LAG whose masks were kept let the residual act."""
    for method in results.suite.methods:
        if method.lag and method.name in columns:
            kept = results.run.piece(subject, method.piece).masks(method.name)
            found = [kept.get(picture_name(index, 0)) for index in prompts]
            shown = [
                overlay(picture, torch.from_numpy(mask).float()[None]) if picture and mask is not None else None
                for picture, mask in zip(columns[method.name], found)
            ]
            if any(shown):
                return {f"where {method.name} acts": shown}
    return {}


def draw_page(prompts: dict[int, str], columns: Columns, photos: Pictures) -> Image.Image:
    step = SIDE + GAP
    top = GAP + (step + GAP if photos else 0)
    across = max(len(columns), len(photos))
    page = Image.new("RGB", (LEFT + step * across + GAP, top + HEAD + step * len(prompts)), "white")
    draw = ImageDraw.Draw(page)

    def write(x: int, y: int, text: str, width: int, colour: str) -> None:
        draw.multiline_text((x, y), textwrap.fill(text, width), colour, font=ImageFont.load_default(13), spacing=3)

    def paste(column: int, y: int, picture: Image.Image | None) -> None:
        picture = picture or Image.new("RGB", (SIDE, SIDE), EMPTY)
        page.paste(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (LEFT + column * step, y))

    if photos:
        write(GAP, GAP, "photos of the concept", 24, INK)
    for column, photo in enumerate(photos):
        paste(column, GAP, photo)
    for column, (name, pictures) in enumerate(columns.items()):
        write(LEFT + column * step, top, name, 19, INK)
        for row, picture in enumerate(pictures):
            paste(column, top + HEAD + row * step, picture)
    for row, text in enumerate(prompts.values()):
        write(GAP, top + HEAD + row * step, text, 24, SOFT)
    return page


def _opened(file: Path | None) -> Image.Image | None:
    """None for a picture that is not there, or half-written."""
    try:
        return file and load_photo(file, min_side=1).image
    except PersresError:
        return None
