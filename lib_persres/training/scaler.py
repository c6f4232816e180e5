"""The scale of a loss whose gradients fp16 would lose: they underflow at a small one, overflow at a large one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class Scaler:
    """The rule of mixed precision (Micikevicius et al. 2018, section 3.2): a factor of the loss that is halved where a
    gradient overflows, and doubled after many steps without. Without halves it is 1 and stays.

    factor: (), where the UNet computes, so that a recorded graph reads the one of now.
    """

    START, MOST, GROWTH = 2.0**10, 2.0**16, 2000
    """GROWTH: steps, as torch's GradScaler has them."""

    def __init__(self, halves: bool, device: torch.device):
        self._halves, self._good = halves, 0
        self.factor = torch.tensor(self.START if halves else 1.0, device=device)

    def unscale(self, weights: Sequence[nn.Parameter]) -> bool:
        """Divide the gradients; whether all are finite, for which the device is waited once."""
        if self._halves:
            for weight in weights:
                weight.grad.div_(self.factor)
        # any number that is not finite makes the sum so
        return bool(torch.stack([weight.grad.sum() for weight in weights]).isfinite().all())

    def lower(self) -> bool:
        """Whether there is a lower factor to try."""
        self._good = 0
        if self.factor <= 1:
            return False
        self.factor.div_(2)
        return True

    def made(self) -> None:
        """A step was made with this factor."""
        self._good += 1
        if self._halves and self._good % self.GROWTH == 0:
            self.factor.mul_(2).clamp_(max=self.MOST)

    def state(self) -> tuple[float, int] | None:
        """What `load` goes on from; None: there is nothing to go on from, as in a training without halves."""
        return (self.factor.item(), self._good) if self._halves else None

    def load(self, state: tuple[float, int] | None) -> None:
        if self._halves and state is not None:
            factor, self._good = state
            self.factor.fill_(factor)
