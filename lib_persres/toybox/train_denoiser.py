"""Second stage of the Toybox's base model: UNet and text encoder together, from scratch, on the latents of scenes."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..attention import Taps, concept_maps
from ..identifiers import IDENTIFIERS
from ..standalone.modules import AutoencoderKL, TextEncoder, build_unet
from ..standalone.tokenizer import Tokenizer
from ..unet import find_blocks
from .dataset import SceneSet, rare_words
from .state import load_state, save_state

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
    "context_dim": 64,
    "use_checkpoint": True,
    "legacy": False,
}
TEXT = {
    "vocab_size": 49408,
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
    "projection_dim": 64,
}

BATCH = 32
UNCONDITIONAL = 0.1  # share of captions left empty, for classifier-free guidance
MIN_SNR = 5.0  # Hang et al. 2023: the loss of step t is weighted with min(snr, γ)/snr
SHAPES_FROM = 2250  # the step from which high noise, where shapes are decided, counts up to four times as much
SINGLES_FROM = 3750  # the step from which 85% of the pictures show one thing, instead of 62%
GROUNDING = 0.02  # weight of the loss that keeps an object's tokens on the object
EMA = 0.999


class Model(torch.nn.Module):
    """UNet and text encoder, trained as one."""

    def __init__(self):
        super().__init__()
        self.unet = build_unet(UNET, sdpa=False)  # on CPU the fused backward is the slower one
        self.text = TextEncoder(TEXT, Tokenizer.find())


class Captions:
    """Captions of scenes as token ids, with the tokens of one of the scene's things."""

    def __init__(self, scenes: SceneSet, tokenizer: Tokenizer):
        self.scenes, self.tokenizer = scenes, tokenizer
        self.rare = rare_words(tokenizer, IDENTIFIERS)
        self._rare = frozenset(self.rare)
        self._ids: dict[str, list[int]] = {}

    def draw(self, index: int, rng: np.random.Generator) -> tuple[list[int], np.ndarray, int]:
        """77 ids, the indicator (77,) of a random thing's class word (and rare word before it), the thing."""
        caption = self.scenes.caption(index, rng, self.rare)
        thing = int(rng.integers(len(self.scenes.scenes[index].things)))
        last = max(i for i, owner in enumerate(caption.owners) if owner == thing)
        ids, indicator = [], np.zeros(77, np.float32)
        for i, word in enumerate(caption.words):
            if word not in self._ids:
                self._ids[word] = self.tokenizer.encode(word)
            if i == last or (i == last - 1 and word in self._rare):
                indicator[len(ids) + 1 : len(ids) + 1 + len(self._ids[word])] = 1
            ids += self._ids[word]
        return self.tokenizer.pad(ids), indicator, thing


@torch.no_grad()
def encode_scenes(scenes: SceneSet, vae: AutoencoderKL, folder: Path) -> dict[str, torch.Tensor]:
    """Mean and standard deviation (n,4,16,16) of every scene's latents, unscaled, and the scale factor."""
    file = folder / "latents.pt"
    if not file.exists():
        means, stds = [], []
        for start in range(0, scenes.count, 50):
            x = torch.from_numpy(np.array(scenes.pictures[start : start + 50])).permute(0, 3, 1, 2).contiguous()
            with torch.autocast("cpu", torch.bfloat16):
                mean, std = vae.moments(x.float() / 127.5 - 1)
            means.append(mean.float())
            stds.append(std.float())
        mean, std = torch.cat(means), torch.cat(stds)
        scale = 1 / (mean.var() + std.square().mean()).sqrt()
        torch.save({"mean": mean, "std": std, "scale": scale}, file)
    return torch.load(file, weights_only=True)


def alphas_cumprod() -> torch.Tensor:
    """ᾱ_t of SD1's schedule, (1000,)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


def train_denoiser(
    scenes: SceneSet,
    latents: dict[str, torch.Tensor],
    folder: Path,
    *,
    steps: int = 5600,
    cooldown: int = 1500,
    lr: float = 8e-4,
    seed: int = 0,
) -> Model:
    """Train (or go on training); returns the averaged model. The state lies in `folder`/denoiser.pt.

    The learning rate is constant and falls to 0 over the last `cooldown` steps.
    """
    torch.manual_seed(seed)
    model, average = Model().train(), Model()
    average.load_state_dict(model.state_dict())
    weights, averages = list(model.parameters()), list(average.parameters())
    optimizer = torch.optim.AdamW(weights, lr=lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    file = folder / "denoiser.pt"
    done = load_state(file, model, optimizer, average=average)
    captions = Captions(scenes, model.text.tokenizer)
    singles = np.array([i for i, scene in enumerate(scenes.scenes) if len(scene.things) == 1])
    alphas = alphas_cumprod()
    snr = alphas / (1 - alphas)
    shares = torch.from_numpy(scenes.masks)
    mean, std, scale = latents["mean"], latents["std"], latents["scale"]

    maps: dict[str, torch.Tensor] = {}
    indicator = torch.zeros(0)
    grounded = BATCH // 2  # the grounding loss sees half of the batch, for speed

    def see(block, layer, q, k, heads):
        maps[block.name] = concept_maps(q[:grounded], k[:grounded], indicator[:grounded, None], heads)[:, 0]

    taps = Taps(find_blocks(model.unet), see)
    started, log, totals = time.time(), open(folder / "denoiser.log", "a"), np.zeros(2)
    for step in range(done, steps):
        rng = np.random.default_rng([seed, 1, step])
        torch.manual_seed(seed * 1_000_003 + step)
        rate = lr * min(1.0, (step + 1) / 200, max(0.0, (steps - step) / cooldown))
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = rng.choice(scenes.count, BATCH, replace=False)
        if step >= SINGLES_FROM:
            rows = np.where(rng.random(BATCH) < 0.6, rng.choice(singles, BATCH, replace=False), rows)
        drawn = [captions.draw(int(row), rng) for row in rows]
        ids = torch.tensor([d[0] for d in drawn])
        indicator = torch.from_numpy(np.stack([d[1] for d in drawn]))
        mask = shares[torch.from_numpy(rows), torch.tensor([d[2] for d in drawn])].float() / 255
        dropped = torch.rand(BATCH) < UNCONDITIONAL
        ids[dropped] = torch.tensor(model.text.tokenizer.pad([]))
        z = (mean[rows] + std[rows] * torch.randn(BATCH, 4, 16, 16)) * scale
        t = torch.randint(0, 1000, (BATCH,))
        noise = torch.randn_like(z)
        a = alphas[t][:, None, None, None]
        maps.clear()
        with torch.autocast("cpu", torch.bfloat16):
            eps = model.unet(a.sqrt() * z + (1 - a).sqrt() * noise, timesteps=t, context=model.text(ids))
        per_image = (eps.float() - noise).square().mean((1, 2, 3))
        weight = snr[t].clamp_max(MIN_SNR) / snr[t]
        if step >= SHAPES_FROM:
            weight = weight * snr[t].rsqrt().clamp(1, 4)
        loss = (per_image * weight).mean()
        sure = alphas[t].sqrt()[:grounded] * ~dropped[:grounded]
        grounding = sum(_outside(m, mask[:grounded]) for m in maps.values()) / len(maps)
        grounding = (grounding * sure).sum() / sure.sum()
        optimizer.zero_grad(set_to_none=True)
        (loss + GROUNDING * grounding).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        decay = min(EMA, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(averages, weights, 1 - decay)
        totals += (loss.item(), grounding.item())
        if (step + 1) % 50 == 0:
            line = f"{step + 1} loss {totals[0] / 50:.4f} grounding {totals[1] / 50:.3f} lr {rate:.2e}"
            print(line, f"{time.time() - started:.0f}s", file=log, flush=True)
            totals[:] = 0
        if (step + 1) % 250 == 0 or step + 1 == steps:
            save_state(file, step + 1, model, optimizer, average=average.state_dict())
    taps.remove()
    return average.eval()


def _outside(maps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """-log of the share of a map (b, hw) that lies on the object, whose shares are mask (b, 16, 16)."""
    side = int(maps.shape[-1] ** 0.5)
    mask = F.adaptive_avg_pool2d(mask[:, None], side).flatten(1)
    mask = mask / mask.amax(1, keepdim=True).clamp_min(1e-6)
    inside = (maps * mask).sum(1) / maps.sum(1)
    return -inside.clamp_min(1e-4).log()
