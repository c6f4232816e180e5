"""OpenAI's CLIP ViT-B/32 (the paper's section 4.3) through transformers, from files on this machine."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

from ...errors import PersresError
from ...standalone.tokenizer import Tokenizer
from .weights import Embedder, ImageProcessor, Kind, State, in_batches, squares, tower


def _config(state: State) -> CLIPConfig:
    """OpenAI's architecture by the tensors' shapes: quick GELU, patches in a square."""
    vocabulary, width = state["text_model.embeddings.token_embedding.weight"].shape
    patches = state["vision_model.embeddings.patch_embedding.weight"]
    positions = len(state["vision_model.embeddings.position_embedding.weight"])
    ids = {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1}
    text = tower(state, width, re.compile(r"text_model\.encoder\.layers\.(\d+)")) | ids | {"vocab_size": vocabulary}
    vision = tower(state, len(patches), re.compile(r"vision_model\.encoder\.layers\.(\d+)"))
    vision |= squares(patches, positions)
    shared = {"hidden_act": "quick_gelu"}
    size = len(state["text_projection.weight"])
    return CLIPConfig(text_config=text | shared, vision_config=vision | shared, projection_dim=size, **ids)


CLIP = Kind(
    name="CLIP ViT-B/32",
    cls=CLIPModel,
    source=(
        "the files of huggingface.co/openai/clip-vit-base-patch32 (config.json, model.safetensors, vocab.json, "
        "merges.txt), or OpenAI's ViT-B-32.pt"
    ),
    renames=(
        (re.compile(r"^visual\.conv1"), "vision_model.embeddings.patch_embedding"),
        (re.compile(r"^visual\.class_embedding"), "vision_model.embeddings.class_embedding"),
        (re.compile(r"^visual\.positional_embedding"), "vision_model.embeddings.position_embedding.weight"),
        (re.compile(r"^visual\.ln_pre"), "vision_model.pre_layrnorm"),
        (re.compile(r"^visual\.ln_post"), "vision_model.post_layernorm"),
        (re.compile(r"^visual\.proj$"), "visual_projection.TRANSPOSED"),
        (re.compile(r"^visual\.transformer\.resblocks"), "vision_model.encoder.layers"),
        (re.compile(r"^transformer\.resblocks"), "text_model.encoder.layers"),
        (re.compile(r"^token_embedding"), "text_model.embeddings.token_embedding"),
        (re.compile(r"^positional_embedding"), "text_model.embeddings.position_embedding.weight"),
        (re.compile(r"^ln_final"), "text_model.final_layer_norm"),
        (re.compile(r"^text_projection$"), "text_projection.TRANSPOSED"),
        (re.compile(r"\.attn\.in_proj_"), ".self_attn.FUSED."),
        (re.compile(r"\.attn\.out_proj"), ".self_attn.out_proj"),
        (re.compile(r"\.ln_([12])\."), r".layer_norm\1."),
        (re.compile(r"\.mlp\.c_fc"), ".mlp.fc1"),
        (re.compile(r"\.mlp\.c_proj"), ".mlp.fc2"),
    ),
    parts=("q_proj", "k_proj", "v_proj"),
    config=_config,
)


class ClipEmbedder(Embedder):
    """Pictures and texts -> projected embeddings (n, 512), not normalised."""

    def __init__(self, model: CLIPModel, tokenizer: Tokenizer, processor: ImageProcessor):
        super().__init__(model, processor)
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, path: str | os.PathLike, device: str = "cpu") -> ClipEmbedder:
        model, path = CLIP.load(path)
        tokenizer = Tokenizer.find(path if path.is_dir() else path.parent)
        if len(tokenizer.vocabulary) != (size := model.config.text_config.vocab_size):
            raise PersresError(
                f"{path} reads {size} tokens, but the vocabulary has {len(tokenizer.vocabulary)}: "
                "put the model's own vocab.json and merges.txt beside it."
            )
        # a file of weights alone is OpenAI's model: a preprocessor_config.json beside it is another's
        settings = _settings(path / "preprocessor_config.json") if path.is_dir() else {}
        side = model.config.vision_config.image_size
        processor = ImageProcessor(size={"shortest_edge": side}, crop_size=side, **settings)
        return cls(model.to(device), tokenizer, processor)

    def see(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeddings (n,d) on the CPU, float32; a text over 77 tokens is cut, as OpenAI's code does with truncate."""
        return in_batches([self.tokenizer.pad(self.tokenizer.encode(text)) for text in texts], self.read)

    def read(self, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        padded = torch.tensor(ids)
        # what follows the end token is padding, which the causal attention of the rest never sees
        ends = (padded == self.tokenizer.eos).int().argmax(1)
        shown = padded[:, : int(ends.max()) + 1].to(self.model.device)
        hidden = self.model.text_model(input_ids=shown).last_hidden_state
        return self.model.text_projection(hidden[torch.arange(len(ids)), ends])


def _settings(file: Path) -> dict:
    """Mean and deviation, where the model comes with its own; the sides are always the model's."""
    if not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        found = {name: [float(value) for value in settings[name]] for name in ("image_mean", "image_std")}
        if {len(values) for values in found.values()} != {3} or min(found["image_std"]) <= 0:
            raise ValueError
        return found
    except (OSError, ValueError, KeyError, TypeError):
        raise PersresError(f"{file} does not give image_mean and image_std as three numbers each.") from None
