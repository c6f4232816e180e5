"""What one step computes: the loss of a batch and the gradients of the factors."""

from __future__ import annotations

import torch
from torch import nn

from ..branch import Branches
from ..lag import Plan
from .objective import objective
from .recipes import Stage
from .texts import Texts


class Rows:
    """What every batch of a stage has: `batch` rows with the prompt, the last of them localized, then `keep` rows with
    the empty one."""

    def __init__(self, stage: Stage, device: torch.device):
        self.count, self.learning = stage.batch + stage.keep, stage.batch
        index = torch.arange(self.count, device=device)
        kept = index >= stage.batch
        self.text = kept.long()
        self.weight = torch.where(kept, stage.keep_weight / max(1, stage.keep), 1 / stage.batch)
        self.gated = (~kept & (index >= stage.batch - stage.localized))[:, None]


class Gradients:
    """Adds the gradients of rows of a batch to those of the factors."""

    def __init__(self, unet: nn.Module, branches: Branches, texts: Texts, rows: Rows, loss_scale: float):
        self.unet, self.branches, self.texts, self.rows = unet, branches, texts, rows
        self.loss_scale = loss_scale
        self._plans: dict[tuple[int, int], Plan] = {}

    def __call__(self, part: slice, z_t: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The part's share of the loss, a scalar that is not waited for; z_t, t, noise: those of these rows."""
        rows, texts, branches = self.rows, self.texts, self.branches
        context = texts.contexts[rows.text[part]]
        learning = max(0, rows.learning - part.start)  # so many rows of this part
        target = noise
        try:
            if learning < len(z_t):
                texts.rows = rows.text[part][learning:]
                with torch.no_grad():
                    base = self.unet(z_t[learning:], timesteps=t[learning:], context=context[learning:]).float()
                target = torch.cat([noise[:learning], base])
            texts.rows = rows.text[part]
            branches.plan = self._plan(part)
            with torch.enable_grad():
                loss = objective(self.unet, z_t, t, context, target, rows.weight[part])
                (loss * self.loss_scale).backward()
        finally:
            branches.plan = texts.rows = None
        return loss.detach()

    def _plan(self, part: slice) -> Plan:
        """Made once: a plan reads its tensors, for which the device is waited."""
        key = part.start, part.stop
        if key not in self._plans:
            gated = self.rows.gated[part]
            ones = torch.ones(len(gated), 1, device=gated.device)
            self._plans[key] = Plan(ones, gated, self.texts.indicator.expand(len(gated), -1, -1))
        return self._plans[key]
