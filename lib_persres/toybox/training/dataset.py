"""The training set: pictures for the autoencoder, and latents with the things' masks for the denoiser, on disk."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ..render import render
from ..scenes import scene_of
from ..world import SIZE

CHUNK = 500
LATENT = SIZE // 8
THINGS = 3


def render_pictures(file: Path, count: int, seed: int, processes: int = 1) -> np.ndarray:
    """The set's first pictures, uint8 (count, 128, 128, 3), from the file or rendered into it."""
    if not file.exists():
        with renderers(processes) as run:
            parts = [pictures for pictures, _ in run(_render, *chunks(seed, count))]
        temporary = file.with_suffix(".tmp")
        with open(temporary, "wb") as stream:
            np.save(stream, np.concatenate(parts))
        os.replace(temporary, file)
    return np.load(file, mmap_mode="r")


@torch.no_grad()
def encode_scenes(vae, folder: Path, count: int, seed: int, processes: int = 1) -> dict[str, torch.Tensor]:
    """Of `count` scenes the latents' mean and std (n,4,16,16), fp16 and unscaled, and the things' masks.

    "masks" are uint8 shares of the latent pixels, (n,3,16,16), the things in the scene's order. Every chunk of
    scenes is a file, and those that are there are not made again. The autoencoder works where its weights are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seeds, starts, stops = chunks(seed, count)
    files = [folder / f"{start:06d}.safetensors" for start in starts]
    wanting = [i for i, file in enumerate(files) if not file.exists()]
    with renderers(processes) as run:
        rendered = run(_render, *([values[i] for i in wanting] for values in (seeds, starts, stops)))
        for i, (pictures, shares) in zip(wanting, rendered):
            save_file(_encode(vae, pictures, shares), files[i].with_suffix(".tmp"))
            os.replace(files[i].with_suffix(".tmp"), files[i])
    parts = [load_file(file) for file in files]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def scale_of(latents: dict[str, torch.Tensor]) -> float:
    """The factor that gives latents unit variance; of the first chunk alone, so that a larger set has the same."""
    mean, std = latents["mean"][:CHUNK].float(), latents["std"][:CHUNK].float()
    return float((mean.var() + std.square().mean()).rsqrt())


def chunks(seed: int, count: int) -> tuple[list[int], list[int], list[int]]:
    """Seed, start and stop of each chunk."""
    starts = list(range(0, count, CHUNK))
    return [seed] * len(starts), starts, [min(start + CHUNK, count) for start in starts]


@contextlib.contextmanager
def renderers(processes: int):
    """A `map` that runs in so many processes, or in this one."""
    if processes == 1:
        yield map
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:  # a fork would copy what a card is used by
        yield pool.map


def _render(seed: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    pictures = []
    shares: np.ndarray = np.zeros((stop - start, THINGS, LATENT, LATENT), np.uint8)
    for row, index in enumerate(range(start, stop)):
        picture, masks = render(scene_of(seed, index))
        cells = masks.reshape(len(masks), LATENT, 8, LATENT, 8).mean((2, 4))
        shares[row, : len(masks)] = (cells * 255).astype(np.uint8)
        pictures.append(picture)
    return np.stack(pictures), shares


def _encode(vae, pictures: np.ndarray, shares: np.ndarray) -> dict[str, torch.Tensor]:
    device = next(vae.parameters()).device
    moments = []
    for part in torch.from_numpy(pictures).split(25):
        with torch.autocast(device.type, torch.bfloat16):
            moments.append(vae.moments(part.to(device).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1))
    mean, std = (torch.cat(parts).half().cpu().contiguous() for parts in zip(*moments))
    return {"mean": mean, "std": std, "masks": torch.from_numpy(shares)}
