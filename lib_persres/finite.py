"""Numbers that are not finite, which would be black pictures without a word: found, and said with the likely reason."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

_ADVICE = "it is damaged, or half precision is too coarse for it; load another, or use full precision"
BASE = f"The base model alone gives numbers that are not finite (NaN): {_ADVICE}."
TEXT = f"The text encoder gives numbers that are not finite (NaN) for this prompt: {_ADVICE}."
VAE = f"The VAE gives numbers that are not finite (NaN) for a picture that was: {_ADVICE}."
USUAL = 2.0
"""Strengths up to this seldom overflow by themselves."""
USUAL_GUIDANCE = 40.0
"""Likewise."""


def too_strong(strengths: Mapping[str, float]) -> str:
    """The base model alone is finite. strengths: how strong each concept acts, by its tag."""
    tag, strength = max(strengths.items(), key=lambda item: abs(item[1]))
    advice = "lower its strength" if abs(strength) > USUAL else "lower its strength, or use full precision"
    return (
        f"The picture's numbers are not finite (NaN), and those of the base model alone are: {tag} acts at strength "
        f"{strength:g}; {advice}."
    )


def is_finite(tensor: torch.Tensor) -> bool:
    tensor = tensor.detach()
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    if tensor.device.type != "cpu":
        return bool(tensor.isfinite().all())
    # a tenth of the time, which a checkpoint's billion of numbers shows; NaN is passed on
    return all(math.isfinite(end.item()) for end in tensor.aminmax())
