"""What a step minimises: the paper's equation 1, row by row."""

from __future__ import annotations

import torch
from torch import nn

from ..conditioning import Conditioning


def draw_timesteps(count: int, total: int, power: float, generator: torch.Generator) -> torch.Tensor:
    """`count` timesteps of 0 … total-1 with density ∝ t^power; power 0 is the paper's, uniform."""
    if power == 0:
        return torch.randint(total, (count,), generator=generator)
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    return (total * uniform ** (1 / (power + 1))).long().clamp_max(total - 1)


def noised(z: torch.Tensor, t: torch.Tensor, noise: torch.Tensor, alphas: torch.Tensor) -> torch.Tensor:
    """z_t = √ᾱ_t z + √(1-ᾱ_t) ε."""
    a = alphas[t].view(-1, 1, 1, 1)
    return a.sqrt() * z + (1 - a).sqrt() * noise


def objective(
    unet: nn.Module,
    z_t: torch.Tensor,
    t: torch.Tensor,
    conditioning: Conditioning,
    target: torch.Tensor,
    weight: torch.Tensor,
) -> torch.Tensor:
    """Σ_i w_i ‖target_i - ε_θ(z_t, t, τ(y))_i‖², the norm as a mean over a row's elements; weight: (rows,).

    With the noise as target and weights of 1/b it is equation 1; a model of v has v as target, as when it was trained.
    A row that keeps the empty prompt has the base model's prediction as target: guidance multiplies the difference of
    the two contexts' predictions, so a residual that says the same in both is not multiplied. As a sum over rows it can
    be had in parts.
    """
    predicted = unet(z_t, timesteps=t, **conditioning.arguments()).float()
    return (weight * (predicted - target).square().mean((1, 2, 3))).sum()
