"""Captions of the composed scenes as token ids, and the batches of a training that are drawn from them."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch.utils.data import Dataset

from ...identifiers import IDENTIFIERS
from ...standalone.tokenizer import Tokenizer
from ..scenes import caption_of, scene_of
from .dataset import THINGS


def rare_words(tokenizer: Tokenizer, excluded: Collection[str] = ()) -> tuple[str, ...]:
    """Words that are one late token of CLIP's vocabulary, for captions; identifiers of concepts are excluded."""
    words = []
    for index in range(40000, tokenizer.bos):
        word = tokenizer.token_strings([index])[0]
        if word.endswith("</w>") and word[:-4].isascii() and word[:-4].isalpha() and 3 <= len(word[:-4]) <= 5:
            if word[:-4] not in excluded and tokenizer.encode(word[:-4]) == [index]:
                words.append(word[:-4])
    return tuple(words)


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
        caption = caption_of(scene_of(self.seed, index), rng, self.rare)
        last = {owner: i for i, owner in enumerate(caption.owners) if owner >= 0}
        ids: list[int] = []
        indicator: np.ndarray = np.zeros((THINGS, self.tokenizer.length), np.float32)
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
        self.captions, self.batch, self.seed = captions, min(batch, len(captions)), seed

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([self.seed, 1, step])
        rows = rng.choice(len(self.captions), self.batch, replace=False)
        ids, indicators = zip(*(self.captions.draw(int(row), rng) for row in rows))
        return torch.from_numpy(rows), torch.tensor(ids), torch.from_numpy(np.stack(indicators))
