"""Numbers that are not finite: which tensor has them, and what the likely reason is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

USUAL_STRENGTH, USUAL_GUIDANCE = 4.0, 40.0
"""What is beyond these is the first suspect."""


def is_finite(tensor: torch.Tensor) -> bool:
    tensor = tensor.detach()
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    if tensor.device.type != "cpu":
        return bool(tensor.isfinite().all())
    # a tenth of the time, which a checkpoint's billion of numbers shows; NaN is passed on
    return all(math.isfinite(end.item()) for end in tensor.aminmax())


def first_not_finite(tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """The name of the first tensor with an infinity or a NaN, None where none has."""
    return next((name for name, tensor in tensors if not is_finite(tensor)), None)


def likely_reason(
    unet: torch.nn.Module, strengths: Sequence[tuple[str, float]] = (), guidance: float | None = None
) -> str:
    """Why what a UNet computed is not finite, without a full stop.

    strengths: of each residual that acts, with what the user calls it. guidance: None where nobody chose it.
    """
    if name := first_not_finite(unet.state_dict().items()):
        return f"the model's weights are not finite, the first is {name}: take another copy of the checkpoint"
    name, strength = max(strengths, key=lambda one: abs(one[1]), default=("", 0.0))
    if abs(strength) > USUAL_STRENGTH:
        return f"the strength {strength:g} of {name} is far from 1: lower it"
    if guidance is not None and abs(guidance) > USUAL_GUIDANCE:
        return f"the guidance {guidance:g} is far from 6: lower it"
    if next(unet.parameters()).dtype == torch.float16:
        return "half precision is too narrow for it: compute in fp32 (--dtype fp32, in the WebUI --no-half)"
    if strengths:
        return f"what {name} adds is too large for this model: lower its strength, or the learning rate of its training"
    return "the model's numbers grow beyond all bounds: try another prompt or more steps"
