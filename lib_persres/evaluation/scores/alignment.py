"""Text and image alignment as in the paper (section 4.3, after Kumari et al. 2023), in closed form on embeddings."""

from __future__ import annotations

import torch

TEXT_WEIGHT = 2.5
"""w of CLIPScore (Hessel et al. 2021)."""


def cosines(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """All cosines (n,m), in [-1, 1], of rows of a (n,d) and b (m,d), in double precision."""
    for rows in (a, b):
        if rows.ndim != 2 or not len(rows):
            raise ValueError(f"embeddings are (n,d) with n > 0, not {tuple(rows.shape)}")
        if not torch.isfinite(rows).all():
            raise ValueError("an embedding holds values that are not finite")
    a, b = (rows.double() / rows.double().norm(dim=1, keepdim=True).clamp_min(1e-12) for rows in (a, b))
    return (a @ b.T).clamp(-1, 1)


def text_alignment(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """2.5·max(cos, 0) of each picture's embedding (n,d) with its text's, (n,d) or (1,d) for all: (n,) in [0, 2.5]."""
    if len(texts) not in (1, len(images)):
        raise ValueError(f"{len(images)} pictures and {len(texts)} texts")
    found = cosines(images, texts)
    own = found[:, 0] if len(texts) == 1 else found.diagonal()
    return TEXT_WEIGHT * own.clamp_min(0)


def image_alignment(generated: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Each generated picture's mean cosine with all references: (n,) in [-1, 1]."""
    return cosines(generated, references).mean(1)
