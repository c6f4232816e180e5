"""The papers' published rows (published.csv), to stand beside ours. All of these numbers are theirs.

Ham et al., CVPR 2024, arXiv 2405.12978: Stable Diffusion 1.4, CustomConcept101, 50 images for each of 20 prompts.
Table 1: text and image alignment. Table 3: other targets of the residuals, and other settings of the training. Table 4:
the macro class chosen otherwise, the nearest noun of WordNet in CLIP's space. Table 5: the rank; m is the width of the
block's projection. AttnDreamBooth's Tables 1 and 2 are pictures in the text at hand, so no row of them is here.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

PAPER = "Ham et al. 2024"


class Row(NamedTuple):
    """One row of a published table. key: the name of the same method or ablation here, "" where there is none."""

    table: str
    method: str
    clip_text: float
    clip_image: float
    dino_image: float
    key: str


def _read() -> dict[str, list[Row]]:
    tables: dict[str, list[Row]] = {}
    with open(Path(__file__).with_suffix(".csv"), encoding="utf-8", newline="") as file:
        for table, method, text, clip, dino, key in list(csv.reader(file))[1:]:
            row = Row(table, method, float(text), float(clip), float(dino), key)
            tables.setdefault(table, []).append(row)
    return tables


TABLES = _read()
