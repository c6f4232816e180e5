"""The papers' published rows, to stand beside ours. All of these numbers are theirs; none is measured here.

Personalized Residuals: Ham et al., CVPR 2024, arXiv 2405.12978. Stable Diffusion 1.4, CustomConcept101, 50 images
for each of 20 prompts. AttnDreamBooth's Tables 1 and 2 are pictures in the text at hand, so no row of them is here.
"""

from __future__ import annotations

from dataclasses import dataclass

PAPER = "Ham et al. 2024"


@dataclass(frozen=True)
class Row:
    """One row of a published table. key: the name of the same method or ablation here, None where there is none."""

    table: str
    method: str
    clip_text: float
    clip_image: float
    dino_image: float
    key: str | None = None
    parameters: str | None = None


def _rows(table: str, *rows: tuple) -> tuple[Row, ...]:
    return tuple(Row(table, *row) for row in rows)


TABLE_1 = _rows(
    "Table 1",
    ("Textual Inversion", 0.6150, 0.7259, 0.4700, "textual-inversion", "768"),
    ("ViCo", 0.7403, 0.7111, 0.4678, None, "51.3M"),
    ("DreamBooth", 0.7536, 0.7424, 0.5212, "dreambooth", "983M"),
    ("Custom Diffusion", 0.7664, 0.7074, 0.4669, "custom-diffusion", "19M"),
    ("Ours", 0.7193, 0.7594, 0.5671, "residual", "1.2M"),
    ("Ours w/ LAG sampling", 0.7220, 0.7424, 0.5411, "residual + LAG", "1.2M"),
    ("Stable Diffusion", 0.8126, 0.6207, 0.2920, "base", "983M"),
)
"""Quantitative evaluations for text and image alignment."""

TABLE_3 = _rows(
    "Table 3",
    ("KV weights", 0.7172, 0.7508, 0.5353, "kv"),
    ("l_proj_in weights", 0.7136, 0.7460, 0.5333, "proj_in"),
    ("KV + l_proj_out weights", 0.7049, 0.7733, 0.5868, "kv+proj_out"),
    ("KV + l_proj_in + l_proj_out weights", 0.6739, 0.7870, 0.6040, "kv+proj_in+proj_out"),
    ("w/o macro class", 0.6605, 0.6521, 0.3798, "no-class"),
    ("w/ reg images", 0.7204, 0.6771, 0.3830, "regularization"),
    ("Update token embedding", 0.6673, 0.8000, 0.6194, "embedding"),
    ("Ours", 0.7193, 0.7594, 0.5671, "residual"),
)
"""Other targets of the residuals, and other settings of the training."""

TABLE_4 = _rows(
    "Table 4",
    ("train CustomConcept101, sample CustomConcept101", 0.7193, 0.7594, 0.5671, "residual"),
    ("train CustomConcept101, sample WordNet NN", 0.7155, 0.7594, 0.5671, "class-sample-nn"),
    ("train WordNet NN, sample CustomConcept101", 0.6626, 0.7798, 0.5904, "class-train-nn"),
    ("train WordNet NN, sample WordNet NN", 0.6869, 0.7798, 0.5904, "class-both-nn"),
)
"""The macro class chosen otherwise: the nearest noun of WordNet in CLIP's space."""

TABLE_5 = _rows(
    "Table 5",
    ("1", 0.7398, 0.6809, 0.4148, "rank-1"),
    ("8", 0.7054, 0.7402, 0.5239, "rank-8"),
    ("16", 0.6926, 0.7573, 0.5513, "rank-16"),
    ("32", 0.6832, 0.7701, 0.5713, "rank-32"),
    ("64", 0.6704, 0.7798, 0.5865, "rank-64"),
    ("128", 0.6544, 0.7938, 0.6053, "rank-128"),
    ("0.025m", 0.6889, 0.7622, 0.5595, "rank-0.025m"),
    ("Ours (0.05m)", 0.7193, 0.7594, 0.5671, "residual"),
)
"""The rank of the residuals; m is the width of the block's projection."""

TABLES = {"Table 1": TABLE_1, "Table 3": TABLE_3, "Table 4": TABLE_4, "Table 5": TABLE_5}
