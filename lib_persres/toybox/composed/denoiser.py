"""UNet and text encoder, trained together on the latents of composed scenes, from nothing.

The learning rate of the long run is constant, so that it can go on for as long as there is time; a copy of any of its
states is cooled down, the rate falling to 0, to a model that can be shipped.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ...attention import Taps, concept_maps
from ...identifiers import IDENTIFIERS
from ...standalone.checkpoint import alphas_cumprod
from ...standalone.modules import TextEncoder, build_unet
from ...standalone.tokenizer import Tokenizer
from ...unet import find_blocks
from ..dataset import rare_words
from ..state import load_state, save_state
from .dataset import THINGS, scale_of
from .scenes import composed_caption, composed_scene

UNET = {
    "image_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 1,
    "channel_mult": [1, 2, 3],
    "num_heads": 4,
    "use_spatial_transformer": True,
    "transformer_depth": 1,
    "context_dim": 96,
    "use_checkpoint": True,
    "legacy": False,
}
TEXT = {
    "vocab_size": 49408,
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
    "projection_dim": 96,
}

BATCH = 32
UNCONDITIONAL = 0.1  # share of captions left empty, for classifier-free guidance
MIN_SNR = 5.0  # Hang et al. 2023: the loss of step t is weighted with min(snr, γ)/snr
GROUNDING = 0.02  # weight of the loss that keeps each thing's tokens on the thing
EMA = 0.999
WARM_UP = 200


class Model(torch.nn.Module):
    """UNet and text encoder, trained as one."""

    def __init__(self, unet: dict = UNET, text: dict = TEXT):
        super().__init__()
        self.unet = build_unet(unet, sdpa=False)  # on CPU the fused backward is the slower one
        self.text = TextEncoder(text, Tokenizer.find())


class Captions:
    """Captions of scenes as token ids, with the tokens of each of the scene's things."""

    def __init__(self, seed: int, count: int, tokenizer: Tokenizer):
        self.scenes = [composed_scene(seed, index) for index in range(count)]
        self.tokenizer = tokenizer
        self.rare = rare_words(tokenizer, IDENTIFIERS)
        self._rare = frozenset(self.rare)
        self._ids: dict[str, list[int]] = {}

    def draw(self, index: int, rng: np.random.Generator) -> tuple[list[int], np.ndarray]:
        """77 ids, and the indicator (3, 77) of each thing's class word (and rare word before it)."""
        caption = composed_caption(self.scenes[index], rng, self.rare)
        last = {owner: i for i, owner in enumerate(caption.owners) if owner >= 0}
        ids, indicator = [], np.zeros((THINGS, self.tokenizer.length), np.float32)
        for i, (word, owner) in enumerate(zip(caption.words, caption.owners)):
            if word not in self._ids:
                self._ids[word] = self.tokenizer.encode(word)
            if owner >= 0 and (i == last[owner] or (i == last[owner] - 1 and word in self._rare)):
                indicator[owner, len(ids) + 1 : len(ids) + 1 + len(self._ids[word])] = 1
            ids += self._ids[word]
        return self.tokenizer.pad(ids), indicator


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
        places = (torch.arange(count) + torch.rand(count)) / count * self._cumulative[-1]
        drawn = torch.searchsorted(self._cumulative, places.double()).clamp_max(len(self.factors) - 1)
        return drawn[torch.randperm(count)]


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


def train_denoiser(
    latents: dict[str, torch.Tensor],
    captions: Captions,
    file: Path,
    *,
    steps: int,
    cooled_from: int | None = None,
    lr: float = 8e-4,
    seed: int = 0,
    batch: int = BATCH,
    build=None,
    options: dict | None = None,
    log_every: int = 50,
    save_every: int = 250,
    saved=None,
) -> Model:
    """Train (or go on training) to `steps`; returns the averaged model. The state lies in `file`, its log beside it.

    latents: what `dataset.encode_scenes` gives, of the scenes of `captions`. cooled_from: the step from which on the
    rate falls, to 0 at `steps`. saved(step, average): called at each save.
    """
    options = {"ema": EMA, "grounding": GROUNDING, **(options or {})}
    torch.manual_seed(seed)
    model, average = (build or Model)().train(), (build or Model)()
    average.load_state_dict(model.state_dict())
    weights, averages = list(model.parameters()), list(average.parameters())
    optimizer = torch.optim.AdamW(weights, lr=lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    done = load_state(file, model, optimizer, average=average)
    alphas = alphas_cumprod(0.00085, 0.012, 1000)
    timesteps = Timesteps(alphas)
    count, scale = len(latents["masks"]), scale_of(latents)
    nothing = torch.tensor(model.text.tokenizer.pad([]))

    maps: dict[str, torch.Tensor] = {}
    indicator = torch.zeros(0)
    grounded = max(1, batch // 4)  # the grounding loss sees a part of the batch, for speed

    def see(block, layer, q, k, heads):
        maps[block.name] = concept_maps(q[:grounded], k[:grounded], indicator[:grounded], heads)

    taps = Taps(find_blocks(model.unet), see)
    started, log, totals = time.process_time(), open(file.with_suffix(".log"), "a"), np.zeros(2)
    for step in range(done, steps):
        rng = np.random.default_rng([seed, 1, step])
        torch.manual_seed(seed * 1_000_003 + step)
        rate = lr * min(1.0, (step + 1) / WARM_UP)
        if cooled_from is not None:
            rate *= min(1.0, (steps - step) / (steps - cooled_from))
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = rng.choice(count, batch, replace=False)
        drawn = [captions.draw(int(row), rng) for row in rows]
        ids = torch.tensor([d[0] for d in drawn])
        indicator = torch.from_numpy(np.stack([d[1] for d in drawn]))
        dropped = torch.rand(batch) < UNCONDITIONAL
        ids[dropped] = nothing
        mean, std = latents["mean"][rows].float(), latents["std"][rows].float()
        z = (mean + std * torch.randn_like(mean)) * scale
        t, noise = timesteps.draw(batch), torch.randn_like(z)
        a = alphas[t][:, None, None, None]
        maps.clear()
        context = model.text(ids)  # so small that float32 is the faster one
        with torch.autocast("cpu", torch.bfloat16):
            eps = model.unet(a.sqrt() * z + (1 - a).sqrt() * noise, timesteps=t, context=context)
        loss = ((eps.float() - noise).square().mean((1, 2, 3)) * timesteps.factors[t]).mean()
        # where noise is high the picture does not say yet where a thing will be
        sure = alphas[t].sqrt()[:grounded] * ~dropped[:grounded]
        masks = latents["masks"][rows[:grounded]].float() / 255
        grounding = sum(grounding_loss(m, masks, sure) for m in maps.values()) / len(maps)
        optimizer.zero_grad(set_to_none=True)
        (loss + options["grounding"] * grounding).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, weights, 1 - min(options["ema"], (step + 1) / (step + 10)))
        totals += (loss.item(), grounding.item())
        if (step + 1) % log_every == 0:
            line = f"{step + 1} loss {totals[0] / log_every:.4f} grounding {totals[1] / log_every:.3f} lr {rate:.2e}"
            print(line, f"{time.process_time() - started:.0f}s", file=log, flush=True)
            totals[:] = 0
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save_state(file, step + 1, model, optimizer, average=average.state_dict())
            if saved:
                saved(step + 1, average)
    taps.remove()
    log.close()
    return average.eval()
