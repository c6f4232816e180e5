"""A step of a training: draw, noise, predict, loss, update."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from ..concepts import Use
from ..parameterization import target
from ..plan import Plan, Plans, guidance_rows
from .execution import Execution
from .finite import not_finite
from .latents import Latents
from .learned import Learned
from .maps import MapComparison
from .objective import draw_timesteps, noised, objective
from .recipe import Stage
from .scaler import Scaler
from .texts import CLASS, EMPTY, PROMPT, Texts


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


class Step:
    """The step of one stage, made again and again.

    photos, of_class: what is drawn from; of_class is for a stage with prior rows. alphas: (T,), ᾱ.
    parameterization: what the UNet predicts, of `parameterization.KINDS`. gradients: predicts
    and compares. execution: in how many parts.
    """

    def __init__(
        self,
        gradients: Gradients,
        execution: Execution,
        scaler: Scaler,
        *,
        photos: Latents,
        of_class: Latents | None,
        alphas: torch.Tensor,
        parameterization: str,
        generator: torch.Generator,
        optimizer: torch.optim.Adam,
    ):
        self.gradients, self._execution, self._scaler = gradients, execution, scaler
        self._photos, self._of_class, self._alphas, self._generator = photos, of_class, alphas, generator
        self._parameterization = parameterization
        self.optimizer = optimizer

    def __call__(self, done: int, learned: int) -> float:
        """The loss. done: steps of this stage before it, and learned: of all stages. PersresError where a number is not
        finite; nothing is changed by it then."""
        stage = self.gradients.stage
        z = self._draw(stage)
        t = draw_timesteps(len(z), len(self._alphas), stage.t_power, self._generator).to(z.device)
        noise = torch.randn(z.shape, generator=self._generator).to(z.device)
        z_t = noised(z, t, noise, self._alphas)
        wanted = target(self._parameterization, z, noise, self._alphas[t].view(-1, 1, 1, 1))
        while True:
            loss = self._execution.loss(self.gradients, (z_t, t, wanted))
            finite = math.isfinite(loss)
            if finite and self._scaler.unscale(self.gradients.weights):
                break
            if not finite or not self._scaler.lower():
                raise not_finite(self.gradients.unet, learned, done + 1, stage.learning_rate, finite)
        self._update(done, stage)
        return loss

    def _draw(self, stage: Stage) -> torch.Tensor:
        """Latents of the batch's rows, those of the class and those with the empty prompt."""
        z = self._photos.draw(stage.batch + stage.keep, self._generator)
        if not stage.prior:
            return z
        assert self._of_class is not None  # as every stage with prior rows has it
        prior = self._of_class.draw(stage.prior, self._generator)
        return torch.cat([z[: stage.batch], prior, z[stage.batch :]])

    def _update(self, done: int, stage: Stage) -> None:
        for group in self.optimizer.param_groups:
            group.setdefault("whole_lr", group["lr"])
            group["lr"] = group["whole_lr"] * (1 - done / stage.steps if stage.decay else 1)
        self.optimizer.step()
        self._scaler.made()


class Gradients:
    """Adds the gradients of rows of a batch to those of what learns: predict, loss.

    factor: (), of the loss on its way backwards. maps: attached already.
    """

    def __init__(
        self,
        unet: nn.Module,
        learned: Sequence[Learned],
        texts: Texts,
        stage: Stage,
        factor: torch.Tensor,
        maps: MapComparison | None = None,
    ):
        self.unet, self.learned, self.texts, self.stage, self.factor, self.maps = (
            unet,
            learned,
            texts,
            stage,
            factor,
            maps,
        )
        self.rows = Rows(stage, texts.contexts.device)
        self.weights = [weight for each in learned for weight in each.weights(stage.targets)]
        self.recordable = all(each.is_recordable(stage) for each in learned)
        self._plans: dict[tuple[int, int], Plan | None] = {}

    @contextlib.contextmanager
    def passes(self) -> Iterator[None]:
        """Around all of a batch."""
        with contextlib.ExitStack() as stack:
            for each in self.learned:
                stack.enter_context(each.passes(self.stage, self.texts))
            yield

    def __call__(self, part: slice, z_t: torch.Tensor, t: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The part's share of the loss, a scalar that is not waited for. z_t, t, target: those of these rows; one that
        keeps the empty prompt has the base model's prediction as target instead."""
        rows, texts = self.rows, self.texts
        conditioning = texts.conditioning[rows.text[part]]
        learning = max(0, rows.learning - part.start)  # so many rows of this part
        prompted = min(len(z_t), max(0, rows.batch - part.start))
        compare = self.maps if prompted > 0 else None
        try:
            if learning < len(z_t):
                texts.rows = rows.text[part][learning:]
                with torch.no_grad():
                    base = self.unet(
                        z_t[learning:], timesteps=t[learning:], **conditioning[learning:].arguments()
                    ).float()
                target = torch.cat([target[:learning], base])
            texts.rows = rows.text[part]
            self._act(self._plan(part))
            with torch.enable_grad(), compare.watching(prompted) if compare else contextlib.nullcontext():
                loss = objective(self.unet, z_t, t, conditioning, target, rows.weight[part])
                if compare:
                    loss = loss + compare.loss().sum() / rows.batch
                (loss * self.factor).backward()
        finally:
            texts.rows = None
            self._act(None)
        return loss.detach()

    def _act(self, plan: Plan | None) -> None:
        for each in self.learned:
            each.plan = plan

    def _plan(self, part: slice) -> Plan | None:
        """Made once; each row is an image of its own."""
        key = part.start, part.stop
        if key not in self._plans:
            localized, tokens = self.rows.localized[part], self.texts.tokens.indices
            plans = Plans([[Use(1.0, here, (tokens,))] for here in localized])
            rows = guidance_rows(len(localized), guided=False)
            self._plans[key] = plans.plan(rows, self.texts.conditioning.length, self.texts.contexts.device)
        return self._plans[key]
