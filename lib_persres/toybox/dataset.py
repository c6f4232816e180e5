"""The base model's training set: rendered scenes on disk, captions drawn anew at each use."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from ..errors import PersresError
from .render import render
from .world import SIZE, Caption, Scene, describe, random_scene

_LATENT = SIZE // 8
_CHUNK = 500


def scene_of(seed: int, index: int) -> Scene:
    """The `index`-th scene of the set with this seed."""
    return random_scene(np.random.default_rng([seed, index]))


class SceneSet:
    """`count` scenes: pictures uint8 (n, SIZE, SIZE, 3) on disk, masks as shares of latent pixels (n, 3, 16, 16)."""

    def __init__(self, folder: str | os.PathLike, count: int, seed: int = 0):
        self.folder, self.count, self.seed = Path(folder), count, seed
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = self.folder / "scenes.json"
        if not (self.folder / "masks.npy").exists():
            self._render()
            settings.write_text(json.dumps([count, seed]))
        elif not settings.exists() or json.loads(settings.read_text()) != [count, seed]:
            raise PersresError(f"{self.folder} does not hold {count} scenes of seed {seed}: take another folder.")
        self.pictures = np.load(self.folder / "pictures.npy", mmap_mode="r")
        self.masks = np.load(self.folder / "masks.npy")
        self.scenes = [scene_of(seed, i) for i in range(count)]

    def caption(self, index: int, rng: np.random.Generator, rare_words: tuple[str, ...] = ()) -> Caption:
        return describe(self.scenes[index], rng, rare_words)

    def _render(self):
        pictures = np.lib.format.open_memmap(
            self.folder / "pictures.npy", "w+", np.uint8, (self.count, SIZE, SIZE, 3)
        )
        masks = np.zeros((self.count, 3, _LATENT, _LATENT), np.uint8)
        starts = range(0, self.count, _CHUNK)
        with ProcessPoolExecutor() as pool:
            jobs = [pool.submit(_render_chunk, self.seed, s, min(s + _CHUNK, self.count)) for s in starts]
            for start, job in zip(starts, jobs):
                chunk_pictures, chunk_masks = job.result()
                pictures[start : start + len(chunk_pictures)] = chunk_pictures
                masks[start : start + len(chunk_masks)] = chunk_masks
        pictures.flush()
        np.save(self.folder / "masks.npy", masks)


def rare_words(tokenizer, excluded: Collection[str] = ()) -> tuple[str, ...]:
    """Words that are one late token of CLIP's vocabulary, for captions; identifiers of concepts are excluded."""
    words = []
    for index in range(40000, tokenizer.bos):
        word = tokenizer.token_strings([index])[0]
        if word.endswith("</w>") and word[:-4].isascii() and word[:-4].isalpha() and 3 <= len(word[:-4]) <= 5:
            if word[:-4] not in excluded and tokenizer.encode(word[:-4]) == [index]:
                words.append(word[:-4])
    return tuple(words)


def _render_chunk(seed: int, start: int, stop: int):
    pictures, shares = [], []
    for index in range(start, stop):
        picture, masks = render(scene_of(seed, index))
        share = np.zeros((3, _LATENT, _LATENT), np.uint8)
        cells = masks.reshape(len(masks), _LATENT, 8, _LATENT, 8).mean((2, 4))
        share[: len(masks)] = (cells * 255).astype(np.uint8)
        pictures.append(picture)
        shares.append(share)
    return np.stack(pictures), np.stack(shares)
