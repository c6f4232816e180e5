"""What a step minimises: the paper's equation 1, and a term that keeps the empty prompt the base model's."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def draw_timesteps(count: int, total: int, power: float, generator: torch.Generator) -> torch.Tensor:
    """`count` timesteps of 0 … total-1 with density ∝ t^power; power 0 is the paper's, uniform."""
    if power == 0:
        return torch.randint(total, (count,), generator=generator)
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    return (total * uniform ** (1 / (power + 1))).long().clamp_max(total - 1)


def noised(z, t, noise, alphas) -> torch.Tensor:
    """z_t = √ᾱ_t z + √(1-ᾱ_t) ε."""
    a = alphas[t].view(-1, 1, 1, 1)
    return a.sqrt() * z + (1 - a).sqrt() * noise


def objective(unet, z_t, t, noise, context, kept=None, keep_weight: float = 1.0) -> torch.Tensor:
    """Equation 1: E ‖ε - ε_θ(z_t, t, τ(y))‖², the mean over all elements.

    kept: (n, 4, h, w), what the base model predicts for the last n rows, whose context is the empty prompt's. Those
    rows add keep_weight · E ‖ε_0 - ε_θ(z_t, t, τ(""))‖² instead. Guidance multiplies the difference of the two
    contexts' predictions, so a residual that says the same in both is not multiplied.
    """
    eps = unet(z_t, timesteps=t, context=context).float()
    if kept is None:
        return F.mse_loss(eps, noise)
    rows = len(z_t) - len(kept)
    return F.mse_loss(eps[:rows], noise[:rows]) + keep_weight * F.mse_loss(eps[rows:], kept)
