"""DINO ViT-S/16 (the paper's section 4.3) through transformers, from files on this machine."""

from __future__ import annotations

import os
import re

import torch
from transformers import ViTConfig, ViTModel

from .weights import Embedder, ImageProcessor, Kind, State, squares, tower

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RESIZED = 256 / 224
"""DINO's own evaluation: ImageNet's mean and deviation; the short side is 256 before the crop of 224."""


def _config(state: State) -> ViTConfig:
    """DINO's architecture by the tensors' shapes: norms with eps 1e-6, as in its own code."""
    patches = state["embeddings.patch_embeddings.projection.weight"]
    sizes = tower(state, len(patches), re.compile(r"(?:encoder\.layer|layers)\.(\d+)"))
    sizes |= squares(patches, state["embeddings.position_embeddings"].shape[1])
    return ViTConfig(**sizes, layer_norm_eps=1e-6, qkv_bias=True)


DINO = Kind(
    name="DINO ViT-S/16",
    cls=ViTModel,
    source=(
        "the files of huggingface.co/facebook/dino-vits16 (config.json, model.safetensors), or "
        "dino_deitsmall16_pretrain.pth of github.com/facebookresearch/dino"
    ),
    renames=(
        (re.compile(r"^(module\.|backbone\.|vit\.)+"), ""),  # whole trainings keep the backbone so
        (re.compile(r"^cls_token"), "embeddings.cls_token"),
        (re.compile(r"^pos_embed"), "embeddings.position_embeddings"),
        (re.compile(r"^patch_embed\.proj"), "embeddings.patch_embeddings.projection"),
        (re.compile(r"^norm\."), "layernorm."),
        (re.compile(r"^blocks"), "encoder.layer"),
        (re.compile(r"\.attn\.qkv"), ".attention.attention.FUSED"),
        (re.compile(r"\.attn\.proj"), ".attention.output.dense"),
        (re.compile(r"\.norm1"), ".layernorm_before"),
        (re.compile(r"\.norm2"), ".layernorm_after"),
        (re.compile(r"\.mlp\.fc1"), ".intermediate.dense"),
        (re.compile(r"\.mlp\.fc2"), ".output.dense"),
    ),
    parts=("query", "key", "value"),
    config=_config,
    options={"add_pooling_layer": False},
)


class DinoEmbedder(Embedder):
    """Pictures -> the class token after the last norm, (n, 384)."""

    def __init__(self, model: ViTModel):
        side = model.config.image_size
        edge = {"shortest_edge": round(side * RESIZED)}
        super().__init__(model, ImageProcessor(size=edge, crop_size=side, image_mean=MEAN, image_std=STD))

    @classmethod
    def load(cls, path: str | os.PathLike, device: str = "cpu") -> DinoEmbedder:
        model, _ = DINO.load(path)
        return cls(model.to(device))

    def see(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixels).last_hidden_state[:, 0]
