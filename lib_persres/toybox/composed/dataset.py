"""The training set: pictures for the autoencoder, and latents with the things' masks for the denoiser, on disk."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ..render import render
from ..world import SIZE
from .scenes import composed_scene

CHUNK = 500
LATENT = SIZE // 8
THINGS = 3


def render_pictures(file: Path, count: int, seed: int) -> np.ndarray:
    """The set's first pictures, uint8 (count, 128, 128, 3), from the file or rendered into it."""
    if not file.exists():
        pictures = np.stack([render(composed_scene(seed, index))[0] for index in range(count)])
        temporary = file.with_suffix(".tmp")
        with open(temporary, "wb") as stream:
            np.save(stream, pictures)
        os.replace(temporary, file)
    return np.load(file, mmap_mode="r")


@torch.no_grad()
def encode_scenes(vae, folder: Path, count: int, seed: int) -> dict[str, torch.Tensor]:
    """Of `count` scenes the latents' mean and std (n,4,16,16), fp16 and unscaled, and the things' masks.

    "masks" are uint8 shares of the latent pixels, (n,3,16,16), the things in the scene's order. Every chunk of
    scenes is a file, and those that are there are not made again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chunks = []
    for start in range(0, count, CHUNK):
        file = folder / f"{start:06d}.safetensors"
        if not file.exists():
            save_file(_encode(vae, seed, start, min(start + CHUNK, count)), file.with_suffix(".tmp"))
            os.replace(file.with_suffix(".tmp"), file)
        chunks.append(load_file(file))
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def scale_of(latents: dict[str, torch.Tensor]) -> float:
    """The factor that gives latents unit variance; of the first chunk alone, so that a larger set has the same."""
    mean, std = latents["mean"][:CHUNK].float(), latents["std"][:CHUNK].float()
    return float((mean.var() + std.square().mean()).rsqrt())


def _encode(vae, seed: int, start: int, stop: int) -> dict[str, torch.Tensor]:
    pictures, shares = [], np.zeros((stop - start, THINGS, LATENT, LATENT), np.uint8)
    for row, index in enumerate(range(start, stop)):
        picture, masks = render(composed_scene(seed, index))
        cells = masks.reshape(len(masks), LATENT, 8, LATENT, 8).mean((2, 4))
        shares[row, : len(masks)] = (cells * 255).astype(np.uint8)
        pictures.append(picture)
    moments = []
    for part in torch.from_numpy(np.stack(pictures)).split(25):
        with torch.autocast("cpu", torch.bfloat16):
            moments.append(vae.moments(part.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1))
    mean, std = (torch.cat(parts).half().contiguous() for parts in zip(*moments))
    return {"mean": mean, "std": std, "masks": torch.from_numpy(shares)}
