"""What a WebUI keeps in `modules.sd_hijack`, which Forge Neo has not: embeddings, and what a text encoder tells; and
its choice of a UNet."""

from __future__ import annotations

import torch
from modules import sd_hijack, sd_unet
from modules.textual_inversion.textual_inversion import Embedding


class Hijacked:
    def replaced_unet(self) -> bool:
        return sd_unet.current_unet is not None

    def hijack(self):
        """What the text encoder tells of a generation, `comments` and `extra_generation_params`."""
        return sd_hijack.model_hijack

    def embeddings(self) -> list[dict[int, list]]:
        return [sd_hijack.model_hijack.embedding_db.ids_lookup]

    def embedding(self, name: str, vectors: dict[str, torch.Tensor]) -> Embedding:
        some = next(iter(vectors.values()))
        embedding = Embedding(vectors.get("", vectors), name)
        embedding.vectors, embedding.shape = some.shape
        return embedding

    def comments(self) -> list[str]:
        return sd_hijack.model_hijack.comments
