"""What is not finite in a training, and the likely reason: the checkpoint, its autoencoder, halves, the rate."""

from __future__ import annotations

import torch
from torch import nn

from ..conditioning import Conditioning
from ..errors import PersresError


def check_latents(mean: torch.Tensor, std: torch.Tensor) -> None:
    """PersresError for photos that the autoencoder cannot encode."""
    if not (mean.isfinite().all() and std.isfinite().all()):
        raise PersresError(
            "The photos' latents are not finite before anything is learned: the autoencoder (VAE) of this checkpoint "
            "is damaged, or overflows in half precision; take another VAE or checkpoint, or keep the VAE in float32."
        )


def check_conditioning(conditioning: Conditioning) -> None:
    """PersresError for a prompt that the text encoder cannot encode."""
    if not conditioning.is_finite():
        raise PersresError(
            "The prompt's encoding is not finite before anything is learned: the text encoder of this checkpoint is "
            "damaged; take another checkpoint."
        )


def check_prediction(unet: nn.Module, prediction: torch.Tensor) -> None:
    """PersresError for a UNet whose own prediction, without anything learned, is of no use."""
    if not prediction.isfinite().all():
        raise PersresError(f"The model's own prediction is not finite before anything is learned: {_reason(unet)}.")


def not_finite(unet: nn.Module, learned: int, step: int, rate: float, loss_is: bool = False) -> PersresError:
    """For a loss, or where that is finite, for a gradient. learned: steps of the optimizer before it; step: that of the
    stage; rate: its rate."""
    what = "A gradient" if loss_is else "The loss"
    if learned and not _broken(unet):
        advice = f"lower the learning rate ({rate})"
        return PersresError(f"{what} is no longer finite at step {step} of the stage: {advice}.")
    return PersresError(f"{what} is not finite at step {step} of the stage: {_reason(unet)}.")


def _reason(unet: nn.Module) -> str:
    if broken := _broken(unet):
        return f"weights of the checkpoint are not finite ({broken[:60]}), it is damaged; take another one"
    if next(unet.parameters()).dtype != torch.float32:
        return "the UNet overflows in half precision; take float32 as the precision, or another checkpoint"
    return "the UNet's weights are finite, but absurdly large; take another checkpoint"


def _broken(unet: nn.Module) -> str:
    """The first weight that is not finite; looked for only where something else is not."""
    return next((name for name, weight in unet.named_parameters() if not weight.isfinite().all()), "")
