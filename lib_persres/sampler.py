"""DDIM with classifier-free guidance, as in ldm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn

from .conditioning import Conditioning, joined
from .errors import PersresError
from .parameterization import noise_and_image


class Model(Protocol):
    """What is sampled from. alphas_cumprod: ᾱ. parameterization: what it predicts, of `parameterization.KINDS`."""

    @property
    def unet(self) -> nn.Module: ...

    @property
    def alphas_cumprod(self) -> torch.Tensor: ...

    @property
    def parameterization(self) -> str: ...

    @property
    def device(self) -> torch.device: ...


def ddim_timesteps(steps: int, total: int = 1000) -> list[int]:
    """ldm's uniform spacing, ascending: 1, 21, …, 981 for 50 steps of 1000.

    As in ldm there are more than `steps` of them where `steps` does not divide `total`.
    """
    if not 1 <= steps <= total:
        raise PersresError(f"The number of sampling steps must be from 1 to {total}, not {steps}.")
    return [t + 1 for t in range(0, total, total // steps) if t + 1 < total]


def noise_for(seeds: list[int], shape: tuple[int, ...]) -> torch.Tensor:
    """Noise (len(seeds), *shape), each image from its own CPU generator: a batch equals its singles."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.no_grad()
def sample(
    sd: Model,
    cond: Conditioning,
    uncond: Conditioning | None,
    noise: torch.Tensor,
    steps: int = 50,
    guidance: float = 6.0,
    eta: float = 0.0,
    begin: int = 0,
    before_step: Callable[[int, int], None] | None = None,
    after_step: Callable[[int, torch.Tensor], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    generators: list[torch.Generator] | None = None,
) -> torch.Tensor:
    """Latents (b,4,h,w) from noise (b,4,h,w).

        ε̂ = ε_u + guidance · (ε_c - ε_u),    x₀ = (x - √(1-ᾱ_t) ε̂) / √ᾱ_t, or v in the place of ε and both of v̂
        x ← √ᾱ_s x₀ + √(1-ᾱ_s-σ²) ε̂ + σ z,   σ = η √((1-ᾱ_s)/(1-ᾱ_t)) √(1-ᾱ_t/ᾱ_s)

    with s the next lower timestep, and 0 after the last.

    sd: a host, see `training.host`. cond, uncond: b rows, or one for every image alike. The UNet is called once a step
    with rows [cond…, uncond…]; with guidance 1 with the cond rows alone, and `uncond` may be None.
    begin: so many steps are made already, and `noise` is what came of them.
    before_step(index, t): called before each UNet call. after_step(done, x): after each step, with what came of it.
    progress(done, total): called then, too.
    generators: one CPU generator an image, for z; needed where eta > 0.
    """
    count = noise.shape[0]
    guided = guidance != 1
    if eta > 0 and (generators is None or len(generators) != count):
        raise PersresError("Sampling with eta above 0 needs one random generator for each image.")
    parts = [_rows(cond, count, "prompts")]
    if guided:
        if uncond is None:
            raise PersresError("Guidance other than 1 needs the unconditional prompt's context.")
        parts.append(_rows(uncond, count, "unconditional prompts"))
        if parts[0].context.shape != parts[1].context.shape:
            raise PersresError("The prompt's and the unconditional prompt's contexts differ in their length.")
    rows = joined([part.to(sd.device) for part in parts])

    timesteps = ddim_timesteps(steps, len(sd.alphas_cumprod))
    alphas = sd.alphas_cumprod.cpu().double()  # not every device has doubles
    x = noise.to(sd.device, torch.float32)
    for index, t in list(enumerate(reversed(timesteps)))[begin:]:
        if before_step is not None:
            before_step(index, t)
        previous = timesteps[-index - 2] if index + 1 < len(timesteps) else 0
        a, a_prev = alphas[t].item(), alphas[previous].item()
        sigma = eta * ((1 - a_prev) / (1 - a) * (1 - a / a_prev)) ** 0.5

        t_rows = torch.full((len(rows),), t, dtype=torch.long, device=sd.device)
        predicted = sd.unet(torch.cat([x, x]) if guided else x, timesteps=t_rows, **rows.arguments()).float()
        if guided:
            conditional, unconditional = predicted.chunk(2)
            predicted = unconditional + guidance * (conditional - unconditional)
        eps, x0 = noise_and_image(sd.parameterization, predicted, x, a)
        x = a_prev**0.5 * x0 + max(1 - a_prev - sigma**2, 0.0) ** 0.5 * eps
        if sigma > 0 and generators is not None:
            z = torch.stack([torch.randn(x.shape[1:], generator=generator) for generator in generators])
            x = x + sigma * z.to(x)
        if after_step is not None:
            after_step(index + 1, x)
        if progress is not None:
            progress(index + 1, len(timesteps))
    return x


def _rows(conditioning: Conditioning, count: int, what: str) -> Conditioning:
    if conditioning.context.ndim != 3 or len(conditioning) not in (1, count):
        shape = tuple(conditioning.context.shape)
        raise PersresError(f"{count} images need 1 or {count} {what}, not a context of {shape}.")
    return conditioning.expand(count)
