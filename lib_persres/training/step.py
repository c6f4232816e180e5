"""What one step computes: the loss of a batch and the gradients of what learns."""

from __future__ import annotations

import contextlib

import torch
from torch import nn

from ..concepts import Use
from ..plan import Plan, Plans, guidance_rows
from .low_rank import LowRank
from .maps import MapComparison
from .objective import objective
from .recipe import Stage
from .texts import CLASS, EMPTY, PROMPT, Texts
from .whole import Whole


class Rows:
    """What every batch of a stage has: `batch` rows with the prompt, the last of them localized, then `prior` rows with
    the class's, then `keep` rows with the empty one."""

    def __init__(self, stage: Stage, device: torch.device):
        self.batch, self.learning = stage.batch, stage.batch + stage.prior
        self.count = self.learning + stage.keep
        index = torch.arange(self.count, device=device)
        prompted, kept = index < self.batch, index >= self.learning
        self.text = torch.where(prompted, PROMPT, torch.where(kept, EMPTY, CLASS))
        other = torch.where(kept, stage.keep_weight / max(1, stage.keep), stage.prior_weight / max(1, stage.prior))
        self.weight = torch.where(prompted, 1 / stage.batch, other)
        self.localized = tuple(stage.batch - stage.localized <= row < stage.batch for row in range(self.count))


class Gradients:
    """Adds the gradients of rows of a batch to those of what learns."""

    def __init__(
        self,
        unet: nn.Module,
        learned: LowRank | Whole,
        texts: Texts,
        rows: Rows,
        loss_scale: float,
        maps: MapComparison | None = None,
    ):
        self.unet, self.learned, self.texts, self.rows, self.maps = unet, learned, texts, rows, maps
        self.loss_scale = loss_scale
        self._plans: dict[tuple[int, int], Plan] = {}

    def __call__(self, part: slice, z_t: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The part's share of the loss, a scalar that is not waited for; z_t, t, noise: those of these rows."""
        rows, texts, learned = self.rows, self.texts, self.learned
        context = texts.contexts[rows.text[part]]
        learning = max(0, rows.learning - part.start)  # so many rows of this part
        prompted = min(len(z_t), max(0, rows.batch - part.start))
        target = noise
        compare = self.maps is not None and prompted > 0
        try:
            if learning < len(z_t):
                texts.rows = rows.text[part][learning:]
                with torch.no_grad():
                    base = self.unet(z_t[learning:], timesteps=t[learning:], context=context[learning:]).float()
                target = torch.cat([noise[:learning], base])
            texts.rows = rows.text[part]
            learned.plan = self._plan(part)
            with torch.enable_grad(), self.maps.watching(prompted) if compare else contextlib.nullcontext():
                loss = objective(self.unet, z_t, t, context, target, rows.weight[part])
                if compare:
                    loss = loss + self.maps.loss().sum() / rows.batch
                (loss * self.loss_scale).backward()
        finally:
            learned.plan = texts.rows = None
        return loss.detach()

    def _plan(self, part: slice) -> Plan:
        """Made once; each row is an image of its own."""
        key = part.start, part.stop
        if key not in self._plans:
            localized, tokens = self.rows.localized[part], self.texts.tokens.indices
            plans = Plans([[Use(1.0, here, (tokens,))] for here in localized])
            rows = guidance_rows(len(localized), guided=False)
            self._plans[key] = plans.plan(rows, self.texts.length, self.texts.contexts.device)
        return self._plans[key]
