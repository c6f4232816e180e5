"""DDIM with classifier-free guidance, as in ldm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn

from .errors import PersresError


class Model(Protocol):
    """What is sampled from. alphas_cumprod: ᾱ."""

    @property
    def unet(self) -> nn.Module: ...

    @property
    def alphas_cumprod(self) -> torch.Tensor: ...

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
    context: torch.Tensor,
    uncond: torch.Tensor | None,
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

        ε̂ = ε_u + guidance · (ε_c - ε_u),    x₀ = (x - √(1-ᾱ_t) ε̂) / √ᾱ_t
        x ← √ᾱ_s x₀ + √(1-ᾱ_s-σ²) ε̂ + σ z,   σ = η √((1-ᾱ_s)/(1-ᾱ_t)) √(1-ᾱ_t/ᾱ_s)

    with s the next lower timestep, and 0 after the last.

    context, uncond: (b,77,d), or (1,77,d) for every image alike. The UNet is called once a step with rows
    [cond…, uncond…]; with guidance 1 with the cond rows alone, and `uncond` may be None.
    begin: so many steps are made already, and `noise` is what came of them.
    before_step(index, t): called before each UNet call. after_step(done, x): after each step, with what came of it.
    progress(done, total): called then, too.
    generators: one CPU generator an image, for z; needed where eta > 0.
    """
    count = noise.shape[0]
    guided = guidance != 1
    if guided and uncond is None:
        raise PersresError("Guidance other than 1 needs the unconditional prompt's context.")
    if eta > 0 and (generators is None or len(generators) != count):
        raise PersresError("Sampling with eta above 0 needs one random generator for each image.")
    rows = [_rows(context, count, "prompts")]
    if guided:
        rows.append(_rows(uncond, count, "unconditional prompts"))
        if rows[0].shape != rows[1].shape:
            raise PersresError("The prompt's and the unconditional prompt's contexts differ in their length.")
    rows = torch.cat([part.to(sd.device) for part in rows])

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
        eps = sd.unet(torch.cat([x, x]) if guided else x, timesteps=t_rows, context=rows).float()
        if guided:
            cond, unconditional = eps.chunk(2)
            eps = unconditional + guidance * (cond - unconditional)
        x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
        x = a_prev**0.5 * x0 + max(1 - a_prev - sigma**2, 0.0) ** 0.5 * eps
        if sigma > 0 and generators is not None:
            z = torch.stack([torch.randn(x.shape[1:], generator=generator) for generator in generators])
            x = x + sigma * z.to(x)
        if after_step is not None:
            after_step(index + 1, x)
        if progress is not None:
            progress(index + 1, len(timesteps))
    return x


def _rows(context: torch.Tensor, count: int, what: str) -> torch.Tensor:
    if context.ndim != 3 or context.shape[0] not in (1, count):
        shape = tuple(context.shape)
        raise PersresError(f"{count} images need 1 or {count} {what}, not a context of {shape}.")
    return context.expand(count, -1, -1)
