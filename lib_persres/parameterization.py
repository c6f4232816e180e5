"""What a UNet predicts of x_t = √ᾱ x₀ + √(1-ᾱ) ε: "eps", the noise, or "v" = √ᾱ ε - √(1-ᾱ) x₀ (Salimans & Ho 2022,
appendix D), which alone says something where ᾱ is 0 (zero terminal SNR: Lin et al. 2023).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # whoever only asks for the names goes without
    import torch

EPS, V = "eps", "v"
KINDS = (EPS, V)


def target(kind: str, x0: torch.Tensor, noise: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """What is to be predicted. a: ᾱ_t, in a shape that broadcasts."""
    return noise if kind == EPS else a.sqrt() * noise - (1 - a).sqrt() * x0


def noise_and_image(
    kind: str, prediction: torch.Tensor, x: torch.Tensor, a: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(ε, x₀), as a prediction at x = x_t says; a: ᾱ_t."""
    if kind == EPS:
        return prediction, (x - (1 - a) ** 0.5 * prediction) / a**0.5
    return a**0.5 * prediction + (1 - a) ** 0.5 * x, a**0.5 * x - (1 - a) ** 0.5 * prediction


def with_zero_terminal_snr(alphas: torch.Tensor) -> torch.Tensor:
    """ᾱ (T,), its root shifted and stretched so that the last is 0, the first stays (Lin et al. 2023, algorithm 1)."""
    root = alphas.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
