"""The autoencoder of 128×128 pictures: f = 8, four channels, 64 wide at the top.

Its norms have 32 groups: at 64 channels a group has two, so that the mean of a channel, and with it an even colour,
passes. The encoder has no residual block before its middle, which makes it cheap enough to encode scenes as they come.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ...standalone.modules import AutoencoderKL
from ..state import load_state, save_state
from .reconstruction import reconstruction_errors

DDCONFIG = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 128,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 64,
    "ch_mult": [1, 1, 1, 2],  # without residual blocks the encoder stays as wide as its first convolution
    "num_res_blocks": 0,
    "attn_resolutions": [],
    "dropout": 0.0,
}

KL_WEIGHT = 1e-3
EDGE_WEIGHT = 0.5
FIRST_LOGVAR = -5.0  # latents nearly without noise at first: as much noise as signal costs 200 steps
COLOUR_WEIGHT = 1.0
LATENT_NOISE = 0.05  # what a drawn latent is off by, at least: the decoder has to stand it


def train_autoencoder(
    pictures: np.ndarray,
    folder: Path,
    *,
    crop_steps: int = 1000,
    steps: int = 1300,
    lr: float = 1.5e-3,
    seed: int = 0,
    held_out: int = 64,
    log_every: int = 50,
    save_every: int = 200,
    ddconfig: dict = DDCONFIG,
) -> AutoencoderKL:
    """Train (or go on training) on pictures, uint8 (n,128,128,3); the state lies in `folder`/autoencoder.pt.

    The first `crop_steps` see crops of half the side, 8 at a time, then whole pictures, 4 at a time. The first three
    latent channels are tied to the 8×8-averaged RGB at the start, which gives colours at once; the tie fades until
    half of the training. The last `held_out` pictures are measured and not learned from.
    """
    torch.manual_seed(seed)
    model = AutoencoderKL(ddconfig, 4).train()
    with torch.no_grad():
        model.quant_conv.bias[4:] = FIRST_LOGVAR
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, betas=(0.9, 0.99))
    file = folder / "autoencoder.pt"
    done = load_state(file, model, optimizer)
    log = open(folder / "autoencoder.log", "a")
    started = time.process_time()
    for step in range(done, steps):
        rng = np.random.default_rng([seed, step])
        torch.manual_seed(seed * 1_000_003 + step)
        x = _batch(pictures[:-held_out], rng, crops=step < crop_steps)
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 100) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        with torch.autocast("cpu", torch.bfloat16):
            mean, std = model.moments(x)
            mean, std = mean.float(), std.float()
            decoded = model.decode(mean + std * torch.randn_like(mean)).float()
        kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.clamp_min(1e-12).log()).mean()
        tie = (mean[:, :3] - F.avg_pool2d(x, 8)).square().mean()
        tie_weight = max(0.0, 1 - step / (0.5 * steps))
        distance, parts = _distance(decoded, x)
        loss = distance + KL_WEIGHT * kl + tie_weight * tie
        _step(optimizer, loss, model.parameters())
        if (step + 1) % log_every == 0:
            line = f"{step + 1} {parts} kl {kl:.3f} tie {tie:.4f} latent std {mean.std():.3f} noise {std.mean():.4f}"
            print(line, f"{time.process_time() - started:.0f}s", file=log, flush=True)
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save_state(file, step + 1, model, optimizer)
            print(step + 1, reconstruction_errors(model.eval(), pictures[-held_out:]), file=log, flush=True)
            model.train()
    log.close()
    return model.eval()


def finish_decoder(
    pictures: np.ndarray,
    vae: AutoencoderKL,
    folder: Path,
    *,
    steps: int = 1500,
    lr: float = 6e-4,
    seed: int = 0,
    held_out: int = 64,
    log_every: int = 50,
    save_every: int = 100,
) -> AutoencoderKL:
    """Train the decoder alone, on whole pictures and noisier latents; its state lies in `folder`/decoder.pt.

    The encoder, and with it what the UNet learns, does not change, so this may be done at any time.
    """
    decoder = torch.nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv})
    vae.requires_grad_(False)
    decoder.train().requires_grad_(True)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=lr, betas=(0.9, 0.99))
    file = folder / "decoder.pt"
    done = load_state(file, decoder, optimizer)
    log = open(folder / "decoder.log", "a")
    started = time.process_time()
    for step in range(done, steps):
        rng = np.random.default_rng([seed, 2, step])
        torch.manual_seed(seed * 1_000_003 + 500_000 + step)
        x = _batch(pictures[:-held_out], rng)
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                mean, std = vae.moments(x)
            z = mean.float() + torch.hypot(std.float(), torch.tensor(LATENT_NOISE)) * torch.randn_like(mean.float())
            decoded = vae.decode(z).float()
        distance, parts = _distance(decoded, x)
        _step(optimizer, distance, decoder.parameters())
        if (step + 1) % log_every == 0:
            print(f"{step + 1} {parts} {time.process_time() - started:.0f}s", file=log, flush=True)
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save_state(file, step + 1, decoder, optimizer)
            print(step + 1, reconstruction_errors(vae.eval(), pictures[-held_out:]), file=log, flush=True)
            decoder.train()
    log.close()
    return vae.eval().requires_grad_(False)


def _batch(pictures: np.ndarray, rng: np.random.Generator, crops: bool = False) -> torch.Tensor:
    """Some of the pictures, (4,3,128,128) in [-1,1], or crops of some, (8,3,64,64)."""
    rows = np.sort(rng.choice(len(pictures), 8 if crops else 4, replace=False))
    if crops:
        half = pictures.shape[1] // 2
        corners = rng.integers(0, half + 1, (len(rows), 2))
        chosen = np.stack([pictures[row, y : y + half, x : x + half] for row, (y, x) in zip(rows, corners)])
    else:
        chosen = np.array(pictures[rows])
    return torch.from_numpy(chosen).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def _distance(decoded: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, str]:
    """How far the pictures are apart, and its parts in words: pixels, edges and 8×8 averages."""
    difference = decoded - x
    l1 = difference.abs().mean()
    edges = sum((decoded.diff(dim=d) - x.diff(dim=d)).abs().mean() for d in (2, 3))
    colour = F.avg_pool2d(difference, 8).abs().mean()
    total = l1 + difference.square().mean() + EDGE_WEIGHT * edges + COLOUR_WEIGHT * colour
    return total, f"l1 {l1:.4f} edges {edges:.4f} colour {colour:.4f}"


def _step(optimizer, loss: torch.Tensor, parameters) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
