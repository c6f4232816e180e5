"""A training step of UNet and text encoder: its losses, and on a card its CUDA graph."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ...attention import Taps, concept_maps
from ...standalone.checkpoint import alphas_cumprod
from ...training.graph import Graph
from ...unet import find_blocks

UNCONDITIONAL = 0.1  # share of captions left empty, for classifier-free guidance
MIN_SNR = 5.0  # Hang et al. 2023: the loss of step t is weighted with min(snr, γ)/snr
GROUNDING = 0.02  # weight of the loss that keeps each thing's tokens on the thing


class Timesteps:
    """Draws timesteps with density ∝ √weight, evenly spread over a batch, so that none is spent where nothing counts.

    The loss of noise level t counts min(snr, 5)/snr, and up to four times as much where noise is high: that is where
    shapes and places are decided. `factors[t]` makes a mean over drawn steps that weighted mean over all.
    """

    def __init__(self, alphas: torch.Tensor):
        snr = alphas / (1 - alphas)
        weight = snr.clamp_max(MIN_SNR) / snr * snr.rsqrt().clamp(1, 4)
        density = weight.sqrt() / weight.sqrt().sum()
        self.factors = weight / (density * len(weight))
        self._cumulative = density.double().cumsum(0)

    def draw(self, count: int) -> torch.Tensor:
        device = self.factors.device
        places = (torch.arange(count, device=device) + torch.rand(count, device=device)) / count
        drawn = torch.searchsorted(self._cumulative, places.double() * self._cumulative[-1])
        return drawn.clamp_max(len(self.factors) - 1)[torch.rand(count, device=device).argsort()]


def grounding_loss(maps: torch.Tensor, masks: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """KL(mask ‖ map) of each thing, mean over the things there are: on all of its own thing and off everything else.

    maps: (b, K, hw). masks: shares of latent pixels, (b, K, h', w'), 0 for things that are not there. weight: (b,).
    """
    side = int(maps.shape[-1] ** 0.5)
    target = F.adaptive_avg_pool2d(masks, side).flatten(2)
    amount = target.sum(-1, keepdim=True)
    target = target / amount.clamp_min(1e-6)
    share = maps / maps.sum(-1, keepdim=True).clamp_min(1e-6)
    distance = (target * (target.clamp_min(1e-6) / share.clamp_min(1e-6)).log()).sum(-1)
    weight = weight[:, None] * (amount[..., 0] > 0)
    return (distance * weight).sum() / weight.sum().clamp_min(1e-6)


class Step:
    """Calls do one step of the optimizer on a batch; on a card its passes are one CUDA graph.

    latents: "mean" and "std" (n,4,16,16) and "masks" (n,3,16,16) as `dataset.encode_scenes` gives them, on the
    model's device. scale: the latents' factor. `losses` (2,): the sums of loss and grounding over the calls.
    """

    def __init__(self, model, optimizer, latents: dict[str, torch.Tensor], scale: float, grounding: float = GROUNDING):
        self.model, self.optimizer, self.latents = model, optimizer, latents
        self.scale, self.grounding = scale, grounding
        self.weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self.device = self.weights[0].device
        self.alphas = alphas_cumprod(0.00085, 0.012, 1000).to(self.device)
        self.timesteps = Timesteps(self.alphas)
        self.nothing = torch.tensor(model.text.tokenizer.pad([]), device=self.device)
        self.losses = torch.zeros(2, device=self.device)
        self._maps: dict[str, torch.Tensor] = {}
        self._indicator = None
        self._graph: Graph | None = None
        self._taps = Taps(find_blocks(model.unet), self._see)

    def remove(self) -> None:
        self._taps.remove()
        self._graph = None

    def __call__(self, rows: torch.Tensor, ids: torch.Tensor, indicator: torch.Tensor) -> None:
        batch = [tensor.to(self.device) for tensor in (rows, ids, indicator)]
        if self.device.type == "cuda":
            if self._graph is None:
                self._graph = Graph(self._compute, batch, self.weights)
                self.losses.zero_()  # of what was computed to record it
            self._graph(*batch)
        else:
            self.optimizer.zero_grad(set_to_none=True)
            self._compute(*batch)
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()

    def _see(self, block, layer, q, k, heads):
        grounded = len(self._indicator)
        self._maps[block.name] = concept_maps(q[:grounded], k[:grounded], self._indicator, heads)

    def _compute(self, rows, ids, indicator) -> torch.Tensor:
        batch = len(rows)
        grounded = max(1, batch // 4)  # the grounding loss sees a part of the batch, for speed
        self._indicator = indicator[:grounded]
        dropped = torch.rand(batch, device=self.device) < UNCONDITIONAL
        ids = torch.where(dropped[:, None], self.nothing, ids)
        mean, std = self.latents["mean"][rows].float(), self.latents["std"][rows].float()
        z = (mean + std * torch.randn_like(mean)) * self.scale
        t, noise = self.timesteps.draw(batch), torch.randn_like(z)
        a = self.alphas[t][:, None, None, None]
        self._maps.clear()
        context = self.model.text(ids)  # so small that float32 is the faster one
        with torch.autocast(self.device.type, torch.bfloat16):
            eps = self.model.unet(a.sqrt() * z + (1 - a).sqrt() * noise, timesteps=t, context=context)
        loss = ((eps.float() - noise).square().mean((1, 2, 3)) * self.timesteps.factors[t]).mean()
        # where noise is high the picture does not say yet where a thing will be
        sure = self.alphas[t].sqrt()[:grounded] * ~dropped[:grounded]
        masks = self.latents["masks"][rows[:grounded]].float() / 255
        grounding = sum(grounding_loss(m, masks, sure) for m in self._maps.values()) / len(self._maps)
        total = loss + self.grounding * grounding
        total.backward()
        self.losses += torch.stack([loss, grounding]).detach()
        return total.detach()
