"""Learning a concept: the paper's objective on frozen networks, with everything fixed computed once."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Protocol

import torch

from .. import __version__
from ..branch import Branches
from ..errors import PersresError
from ..lag import Plan
from ..prompt import check_identifier, choose_identifier, find_concept_tokens
from ..residual import Factors, Metadata, Residual
from .images import Photo, crop_views
from .objective import draw_timesteps, noised, objective
from .recipes import Recipe, Stage


class Host(Protocol):
    """What a trainer needs of a loaded model; latents are scaled, images are in [-1, 1]."""

    unet: torch.nn.Module
    alphas_cumprod: torch.Tensor
    device: torch.device
    family: str
    hash: str

    def encode_images(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...

    def encode_prompts(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]: ...

    def encode_text(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class Latents:
    """Every view of every photo, encoded once: mean and std, each (n, 4, h, w), so that steps can still sample."""

    mean: torch.Tensor
    std: torch.Tensor

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(self.mean), (count,), generator=generator)
        noise = torch.randn(count, *self.mean.shape[1:], generator=generator).to(self.mean)
        return self.mean[rows] + self.std[rows] * noise


def encode_photos(host: Host, photos: Sequence[Photo], recipe: Recipe, resolution: int, seed: int) -> Latents:
    means, stds = [], []
    for index, photo in enumerate(photos):
        views = crop_views(photo.image, resolution, recipe.flips, recipe.crops, seed + index)
        mean, std = host.encode_images(views)
        means.append(mean.float())
        stds.append(std.float())
    return Latents(torch.cat(means).to(host.device), torch.cat(stds).to(host.device))


def train(
    host: Host,
    photos: Sequence[Photo],
    concept: str,
    macro_class: str,
    recipe: Recipe,
    *,
    resolution: int,
    seed: int = 0,
    identifier: str | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Residual:
    """Learn a residual; the same seed gives the same residual on CPU.

    progress(done, total, loss) is called after each step; when should_stop() turns true, what was learned until then
    is returned (its metadata tell the steps done). The host's modules are left as they were.
    """
    if not photos:
        raise PersresError(f'The concept "{concept}" has no photos to learn from: give 3 to 10.')
    if not macro_class.strip():
        raise PersresError(f'The concept "{concept}" needs a macro class, the plain noun for it, such as "dog".')
    if identifier is None:
        identifier = choose_identifier(host.encode_text)
    check_identifier(identifier, host.encode_text)
    if len({(stage.targets, stage.rank) for stage in recipe.stages}) > 1:
        raise PersresError(f"The stages of recipe {recipe.name} must agree in targets and rank.")
    base_hash = host.hash  # read now: a checkpoint that is moved meanwhile must not cost the training
    generator = torch.Generator().manual_seed(seed)
    latents = encode_photos(host, photos, recipe, resolution, seed)
    prompts = _encode(host, recipe.prompt(identifier, macro_class), identifier, macro_class, concept)
    stage = recipe.stages[0]
    residual = Residual.initialise(host.unet, stage.rank, generator)
    losses: list[float] = []
    with _frozen(host.unet):
        for stage in recipe.stages:
            done = len(losses)

            def report(step: int, loss: float, done: int = done) -> None:
                losses.append(loss)
                if progress is not None:
                    progress(done + step, recipe.steps, loss)

            residual = _train_stage(host, residual, stage, latents, prompts, generator, report, should_stop)
            if should_stop():
                break
    residual.metadata = Metadata(
        concept=concept,
        identifier=identifier,
        macro_class=macro_class,
        base_family=host.family,
        base_hash=base_hash,
        targets=stage.targets,
        rank=str(stage.rank),
        recipe=recipe.changed(resolution=resolution).to_dict(),
        steps=len(losses),
        seed=seed,
        loss=_summary(losses),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        library_version=__version__,
        image_hashes=[photo.sha256 for photo in photos],
    )
    return residual


@dataclass(frozen=True)
class _Prompts:
    """The contexts (1, n, d) of the fixed prompt and of the empty one; indicator: (1, 1, n), the concept's tokens."""

    context: torch.Tensor
    empty: torch.Tensor
    indicator: torch.Tensor
    problem: str | None


def _encode(host: Host, prompt: str, identifier: str, macro_class: str, concept: str) -> _Prompts:
    context, ids = host.encode_prompts([prompt, ""])
    found = find_concept_tokens(
        ids[0].tolist(),
        host.encode_text(identifier),
        host.encode_text(macro_class),
        identifier=identifier,
        macro_class=macro_class,
        concept=concept,
    )
    indicator = torch.zeros(1, 1, context.shape[1], device=context.device)
    indicator[..., list(found.indices)] = 1
    return _Prompts(context[:1], context[1:], indicator, found.problem)


def _plan(stage: Stage, prompts: _Prompts, device) -> Plan:
    """Rows: the batch, the last of it under LAG, then those with the empty prompt."""
    if stage.localized and prompts.problem:
        raise PersresError(f"This recipe learns where LAG sees the concept: {prompts.problem}")
    rows = torch.arange(stage.batch + stage.keep, device=device)
    return Plan(
        strength=torch.ones(len(rows), 1, device=device),
        gated=((rows >= stage.batch - stage.localized) & (rows < stage.batch))[:, None],
        indicator=prompts.indicator.expand(len(rows), -1, -1),
    )


def _train_stage(host, residual, stage: Stage, latents, prompts, generator, report, should_stop) -> Residual:
    device = host.device
    factors = {
        name: Factors(*(torch.nn.Parameter(t.to(device)) for t in (f.down, f.up)))
        for name, f in residual.factors.items()
    }
    live = Residual(factors, residual.metadata)
    weights = [weight for f in factors.values() for weight in (f.down, f.up)]
    optimizer = torch.optim.Adam(weights, lr=stage.learning_rate)
    alphas = host.alphas_cumprod.to(device)
    # fp16 gradients of a small loss underflow: scaled up before, down after the backward pass
    loss_scale = 1024.0 if next(host.unet.parameters()).dtype == torch.float16 else 1.0
    rows = stage.batch + stage.keep
    empty = prompts.empty.expand(stage.keep, -1, -1)
    context = torch.cat([prompts.context.expand(stage.batch, -1, -1), empty])
    plan = _plan(stage, prompts, device)
    with Branches(host.unet, [live]) as branches, torch.enable_grad():
        for step in range(stage.steps):
            if should_stop():
                break
            z = latents.draw(rows, generator)
            t = draw_timesteps(rows, len(alphas), stage.t_power, generator).to(device)
            noise = torch.randn(z.shape, generator=generator).to(device)
            z_t, kept = noised(z, t, noise, alphas), None
            if stage.keep:
                with torch.no_grad():
                    kept = host.unet(z_t[stage.batch :], timesteps=t[stage.batch :], context=empty).float()
            branches.plan = plan
            loss = objective(host.unet, z_t, t, noise, context, kept, stage.keep_weight)
            branches.plan = None
            optimizer.zero_grad(set_to_none=True)
            (loss * loss_scale).backward()
            for weight in weights:
                weight.grad.div_(loss_scale)
            value = loss.item()
            if not math.isfinite(value):
                raise PersresError(
                    f"The loss is no longer finite at step {step + 1} of the stage: lower the learning rate "
                    f"({stage.learning_rate})."
                )
            if stage.decay:
                optimizer.param_groups[0]["lr"] = stage.learning_rate * (1 - step / stage.steps)
            optimizer.step()
            report(step + 1, value)
    learned = {name: Factors(f.down.detach().cpu(), f.up.detach().cpu()) for name, f in factors.items()}
    return Residual(learned, residual.metadata)


@contextlib.contextmanager
def _frozen(unet):
    """Only the branch learns: no weight of the model gets a gradient, and all flags come back."""
    flags = [(weight, weight.requires_grad) for weight in unet.parameters()]
    modes = [(module, module.training) for module in unet.modules()]
    unet.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for weight, flag in flags:
            weight.requires_grad_(flag)


def _summary(losses: list[float]) -> dict:
    """First and last tenth of the training, and the loss of up to 100 points in between for a curve."""
    if not losses:
        return {}
    tenth = max(1, len(losses) // 10)
    stride = max(1, math.ceil(len(losses) / 100))
    curve = [sum(losses[i : i + stride]) / len(losses[i : i + stride]) for i in range(0, len(losses), stride)]
    return {
        "first": sum(losses[:tenth]) / tenth,
        "last": sum(losses[-tenth:]) / tenth,
        "curve": [round(value, 5) for value in curve],
    }
