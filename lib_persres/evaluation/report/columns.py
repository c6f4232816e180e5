"""The scores that a report knows: what each is called and means, and which of them stand for "image" and "text"."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

WITHOUT = "without V*"
"""The category of the prompts that hold no V*: only drift is asked of them."""


@dataclass(frozen=True)
class Column:
    """A score. digits: decimals shown."""

    name: str
    label: str
    meaning: str
    digits: int = 3


_TRUTH = "share of pictures, by the Toybox's judge"

COLUMNS = (
    Column("clip_text", "CLIP text", "2.5·max(cos, 0) of picture and prompt without V* in CLIP"),
    Column("clip_image", "CLIP image", "mean cosine with the reference photos in CLIP"),
    Column("dino_image", "DINO image", "mean cosine with the reference photos in DINO"),
    Column("object_clip", "object CLIP", "CLIP image of the objects alone, backgrounds painted over"),
    Column("object_dino", "object DINO", "DINO image of the objects alone, backgrounds painted over"),
    Column("background_copied", "background copied", "image alignment of the backgrounds alone; high is overfitting"),
    Column(
        "background_distance",
        "background distance",
        "grey levels to the base model's picture of the same noise, outside of every method's object",
        1,
    ),
    Column("drift", "drift", "grey levels to the base model's picture of the same noise, prompts without V*", 1),
    Column("mask_iou", "mask IoU", "intersection over union of LAG's masks with the true ones"),
    Column("mask_auc", "mask AUC", "a pixel of the thing is in more of LAG's masks than one beside it (probability)"),
    Column("identity", "identity", f"the thing is the concept ({_TRUTH})"),
    Column("obeyed", "obeyed", f"everything is as the prompt says ({_TRUTH})"),
    Column("class", "class", f"the thing has the prompt's class ({_TRUTH})"),
    Column("background", "background", f"the background is the prompt's ({_TRUTH})"),
    Column("colour", "colour", f"the thing has the prompt's colour ({_TRUTH})"),
    Column("size", "size", f"the thing has the prompt's size ({_TRUTH})"),
    Column("style", "style", f"the picture has the prompt's style ({_TRUTH})"),
    Column("others", "others", f"the other things of the prompt are there ({_TRUTH})"),
    Column("area", "area", "share of the picture that the thing covers"),
)

STAND_FOR = {"image": ("clip_image", "dino_image", "identity"), "text": ("clip_text", "obeyed")}
"""The columns that stand for a score of the papers, the first to be had first."""

_BY_NAME = {column.name: column for column in COLUMNS}


def column(name: str) -> Column:
    return _BY_NAME.get(name) or Column(name, name, "a score that this report has no words for")


def columns_for(score: str) -> tuple[str, ...]:
    """The columns that stand for "image" or "text"; any other name stands for itself."""
    return STAND_FOR.get(score, (score,))


def present(rows: Iterable[Mapping], names: Sequence[str] | None = None) -> list[Column]:
    """The columns (of `names`) that at least one row has a value in."""
    wanted = [column.name for column in COLUMNS] if names is None else names
    found = set()
    for row in rows:
        found |= {name for name in wanted if name not in found and is_number(row.get(name))}
    return [column(name) for name in wanted if name in found]


def is_number(value) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def counted(rows: Iterable[Mapping]) -> list[Mapping]:
    """The rows that prove something: those of concepts that no setting was tuned on, if there are any."""
    rows = list(rows)
    return [row for row in rows if not row.get("tuned")] or rows


def for_column(rows: Iterable[Mapping], name: str) -> list[Mapping]:
    """Without the prompts that hold no V*, unless the score is theirs."""
    return [row for row in rows if (row.get("category") == WITHOUT) <= (name == "drift")]
