"""The Toybox's autoencoder of 128×128 pictures, f = 8, four channels, from scratch; its decoder is finished later."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..standalone.modules import AutoencoderKL
from .dataset import SceneSet
from .state import load_state, save_state

DDCONFIG = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 128,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1, 2, 4],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}

KL_WEIGHT = 2e-3
EDGE_WEIGHT = 0.5


def train_autoencoder(
    scenes: SceneSet, folder: Path, *, small_steps: int = 1500, steps: int = 2900, lr: float = 1e-3, seed: int = 0
) -> AutoencoderKL:
    """Train (or go on training) and return the autoencoder; its state lies in `folder`/autoencoder.pt.

    The first `small_steps` see the pictures at half size, 16 at a time, then at full size, 8 at a time. The first
    three latent channels are tied to the 8×8-averaged RGB at the start, which gives colours at once; the tie
    fades, so that they can carry detail too.
    """
    torch.manual_seed(seed)
    model = AutoencoderKL(DDCONFIG, 4).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, betas=(0.9, 0.99))
    file = folder / "autoencoder.pt"
    done = load_state(file, model, optimizer)
    started, log = time.time(), open(folder / "autoencoder.log", "a")
    for step in range(done, steps):
        rng = np.random.default_rng([seed, step])
        torch.manual_seed(seed * 1_000_003 + step)
        small = step < small_steps
        rows = np.sort(rng.choice(scenes.count, 16 if small else 8, replace=False))
        x = torch.from_numpy(scenes.pictures[rows]).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
        if small:
            x = F.avg_pool2d(x, 2)
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 100) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        with torch.autocast("cpu", torch.bfloat16):
            mean, std = model.moments(x)
            mean, std = mean.float(), std.float()
            decoded = model.decode(mean + std * torch.randn_like(mean)).float()
        reconstruction = (decoded - x).abs().mean() + (decoded - x).square().mean()
        edges = sum((decoded.diff(dim=d) - x.diff(dim=d)).abs().mean() for d in (2, 3))
        kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.clamp_min(1e-12).log()).mean()
        tie = (mean[:, :3] - F.avg_pool2d(x, 8)).square().mean()
        tie_weight = max(0.0, 1 - step / (0.5 * steps))
        loss = reconstruction + EDGE_WEIGHT * edges + KL_WEIGHT * kl + tie_weight * tie
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            line = (
                f"{step + 1} l1 {(decoded - x).abs().mean():.4f} edges {edges:.4f} kl {kl:.3f} tie {tie:.4f} "
                f"latent std {mean.std():.3f} noise {std.mean():.4f} {time.time() - started:.0f}s"
            )
            print(line, file=log, flush=True)
        if (step + 1) % 250 == 0 or step + 1 == steps:
            save_state(file, step + 1, model, optimizer)
    return model.eval()


def finish_decoder(
    scenes: SceneSet,
    latents: dict[str, torch.Tensor],
    vae: AutoencoderKL,
    folder: Path,
    *,
    steps: int = 900,
    lr: float = 6e-4,
    seed: int = 0,
) -> AutoencoderKL:
    """Train the decoder alone on the latents as they are, for truer colours; its state lies in `folder`/decoder.pt.

    The encoder, and with it what the UNet learned, does not change, so this may be done at any time. Colours of
    large even areas are what the decoder gets right last, since its norms at width 32 remove each channel's mean:
    the loss also compares 8×8 averages.
    """
    decoder = torch.nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv})
    decoder.train().requires_grad_(True)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=lr, betas=(0.9, 0.99))
    file = folder / "decoder.pt"
    done = load_state(file, decoder, optimizer)
    started, log = time.time(), open(folder / "decoder.log", "a")
    for step in range(done, steps):
        rng = np.random.default_rng([seed, 2, step])
        torch.manual_seed(seed * 1_000_003 + 500_000 + step)
        rows = np.sort(rng.choice(scenes.count, 8, replace=False))
        x = torch.from_numpy(scenes.pictures[rows]).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
        mean, std = latents["mean"][rows], latents["std"][rows]
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        with torch.autocast("cpu", torch.bfloat16):
            decoded = vae.decode(mean + std * torch.randn_like(mean)).float()
        l1 = (decoded - x).abs().mean()
        edges = sum((decoded.diff(dim=d) - x.diff(dim=d)).abs().mean() for d in (2, 3))
        colour = F.avg_pool2d(decoded - x, 8).abs().mean()
        optimizer.zero_grad(set_to_none=True)
        (l1 + EDGE_WEIGHT * edges + 2 * colour).backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            line = f"{step + 1} l1 {l1:.4f} edges {edges:.4f} colour {colour:.4f} {time.time() - started:.0f}s"
            print(line, file=log, flush=True)
        if (step + 1) % 150 == 0 or step + 1 == steps:
            save_state(file, step + 1, decoder, optimizer)
    decoder.eval()
    return vae
