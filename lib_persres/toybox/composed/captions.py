"""Captions of the composed scenes as token ids, and the batches of a training that are drawn from them."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset

from ...identifiers import IDENTIFIERS
from ...standalone.tokenizer import Tokenizer
from ..dataset import rare_words
from .dataset import THINGS
from .scenes import composed_caption, composed_scene


class Captions:
    """Captions of scenes as token ids, with the tokens of each of the scene's things."""

    def __init__(self, seed: int, count: int, tokenizer: Tokenizer):
        self.seed, self.count, self.tokenizer = seed, count, tokenizer
        self.rare = rare_words(tokenizer, IDENTIFIERS)
        self._rare = frozenset(self.rare)
        self._ids: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return self.count

    def draw(self, index: int, rng: np.random.Generator) -> tuple[list[int], np.ndarray]:
        """77 ids, and the indicator (3, 77) of each thing's class word (and rare word before it)."""
        caption = composed_caption(composed_scene(self.seed, index), rng, self.rare)
        last = {owner: i for i, owner in enumerate(caption.owners) if owner >= 0}
        ids, indicator = [], np.zeros((THINGS, self.tokenizer.length), np.float32)
        for i, (word, owner) in enumerate(zip(caption.words, caption.owners)):
            if word not in self._ids:
                self._ids[word] = self.tokenizer.encode(word)
            if owner >= 0 and (i == last[owner] or (i == last[owner] - 1 and word in self._rare)):
                indicator[owner, len(ids) + 1 : len(ids) + 1 + len(self._ids[word])] = 1
            ids += self._ids[word]
        return self.tokenizer.pad(ids), indicator


class Batches(Dataset):
    """The batch of every step: which scenes, their captions' ids (b,77), and the indicators (b,3,77)."""

    def __init__(self, captions: Captions, batch: int, seed: int):
        self.captions, self.batch, self.seed = captions, batch, seed

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([self.seed, 1, step])
        rows = rng.choice(len(self.captions), self.batch, replace=False)
        ids, indicators = zip(*(self.captions.draw(int(row), rng) for row in rows))
        return torch.from_numpy(rows), torch.tensor(ids), torch.from_numpy(np.stack(indicators))
