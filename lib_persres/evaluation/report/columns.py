"""The scores that a report knows: what each is called and means, and which of them stand for "image" and "text"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ..datasets.dataset import WITHOUT
from ..statistics import means


@dataclass(frozen=True)
class Column:
    """A score. digits: decimals shown."""

    name: str
    label: str
    meaning: str
    digits: int = 3


_TRUTH = "share of pictures, by the Toybox's judge"
_OF_TWO = "by the Toybox's judge"


def _by_name(*columns: Column) -> dict[str, Column]:
    return {column.name: column for column in columns}


COLUMNS = _by_name(
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
OF_PAIRS = _by_name(
    Column("clip_text", "CLIP text", "2.5·max(cos, 0) of picture and prompt without V1* and V2* in CLIP"),
    Column("clip_image", "CLIP image", "the mean of the two next ones"),
    Column("clip_image_first", "CLIP image, first", "mean cosine with the first concept's photos in CLIP"),
    Column("clip_image_second", "CLIP image, second", "mean cosine with the second concept's photos in CLIP"),
    Column("dino_image", "DINO image", "the mean of the two next ones"),
    Column("dino_image_first", "DINO image, first", "mean cosine with the first concept's photos in DINO"),
    Column("dino_image_second", "DINO image, second", "mean cosine with the second concept's photos in DINO"),
    Column("both", "both there", f"share of pictures with a thing of each class ({_OF_TWO})"),
    Column("own", "own skin", f"share of the concepts that are there in their own skin ({_OF_TWO})"),
    Column("other", "other's skin", f"share of the concepts that wear the other's skin ({_OF_TWO})"),
    Column("each_own", "each its own", f"share of pictures where both are there, each in its own skin ({_OF_TWO})"),
    Column("background", "background", f"share of pictures with the prompt's background ({_OF_TWO})"),
)

STAND_FOR = {"image": ("clip_image", "dino_image", "identity"), "text": ("clip_text", "obeyed")}
"""The columns that stand for a score of the papers, the first to be had first."""


def by_concept(rows: pd.DataFrame, name: str, **where) -> pd.DataFrame:
    """`statistics.means` without the prompts that hold no V*, unless the score is theirs."""
    return means(rows[(rows["category"] == WITHOUT) == (name == "drift")], name, **where)


def meanings(columns: Sequence[Column]) -> str:
    return " ".join(f"{c.label}: {c.meaning}." for c in columns)
