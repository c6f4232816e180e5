"""OpenAI's CLIP ViT-B/32 (the paper's section 4.3) through transformers, from files on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from ...errors import PersresError
from ...standalone.tokenizer import Tokenizer
from .weights import ImageProcessor, Kind, State, digest_of, in_batches, pictures_of, pixels_of, tower


def _config(state: State) -> CLIPConfig:
    """OpenAI's architecture by the tensors' shapes: quick GELU, patches in a square."""
    vocabulary, text = state["text_model.embeddings.token_embedding.weight"].shape
    patches = state["vision_model.embeddings.patch_embedding.weight"]
    positions = len(state["vision_model.embeddings.position_embedding.weight"])
    ids = {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1}
    shared = {"hidden_act": "quick_gelu"}
    return CLIPConfig(
        text_config={**tower(state, text, r"text_model.*layers\.(\d+)"), **shared, **ids, "vocab_size": vocabulary},
        vision_config={
            **tower(state, len(patches), r"vision_model.*layers\.(\d+)"),
            **shared,
            **pictures_of(patches, positions),
        },
        projection_dim=len(state["text_projection.weight"]),
        **ids,
    )


CLIP = Kind(
    name="CLIP ViT-B/32",
    cls=CLIPModel,
    source=(
        "the files of huggingface.co/openai/clip-vit-base-patch32 (config.json, model.safetensors, vocab.json, "
        "merges.txt), or OpenAI's ViT-B-32.pt"
    ),
    renames=(
        (r"^visual\.conv1", "vision_model.embeddings.patch_embedding"),
        (r"^visual\.class_embedding", "vision_model.embeddings.class_embedding"),
        (r"^visual\.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
        (r"^visual\.ln_pre", "vision_model.pre_layrnorm"),
        (r"^visual\.ln_post", "vision_model.post_layernorm"),
        (r"^visual\.proj$", "visual_projection.TRANSPOSED"),
        (r"^visual\.transformer\.resblocks", "vision_model.encoder.layers"),
        (r"^transformer\.resblocks", "text_model.encoder.layers"),
        (r"^token_embedding", "text_model.embeddings.token_embedding"),
        (r"^positional_embedding", "text_model.embeddings.position_embedding.weight"),
        (r"^ln_final", "text_model.final_layer_norm"),
        (r"^text_projection$", "text_projection.TRANSPOSED"),
        (r"\.attn\.in_proj_", ".self_attn.FUSED."),
        (r"\.attn\.out_proj", ".self_attn.out_proj"),
        (r"\.ln_([12])\.", r".layer_norm\1."),
        (r"\.mlp\.c_fc", ".mlp.fc1"),
        (r"\.mlp\.c_proj", ".mlp.fc2"),
    ),
    parts=("q_proj", "k_proj", "v_proj"),
    config=_config,
    options={},
)


class ClipEmbedder:
    """Pictures and texts -> projected embeddings (n, 512), not normalised."""

    def __init__(self, model: CLIPModel, tokenizer: Tokenizer, processor):
        self.model, self.tokenizer, self.processor = model, tokenizer, processor
        self.digest = digest_of(model, processor.to_json_string())

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

    def images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Embeddings (n,d) on the CPU, float32, of PIL images of any size."""

        def embed(part):
            pixels = pixels_of(self.processor, part, self.model.device)
            return self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)

        return in_batches(images, embed, self.model.config.projection_dim)

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeddings (n,d) on the CPU, float32; a text over 77 tokens is cut, as OpenAI's code does with truncate."""
        tokenizer, device = self.tokenizer, self.model.device

        def embed(part):
            ids = torch.tensor(part)
            # what follows the end token is padding, which the causal attention of the rest never sees
            ends = (ids == tokenizer.eos).int().argmax(1)
            hidden = self.model.text_model(input_ids=ids[:, : int(ends.max()) + 1].to(device)).last_hidden_state
            return self.model.text_projection(hidden[torch.arange(len(part)), ends])

        return in_batches(
            [tokenizer.pad(tokenizer.encode(text)) for text in texts], embed, self.model.config.projection_dim
        )


def _settings(file: Path) -> dict:
    """Mean and deviation, where the model comes with its own; the sides are always the model's."""
    if not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        found = {key: [float(value) for value in settings[key]] for key in ("image_mean", "image_std")}
        if len(found["image_mean"]) != 3 or len(found["image_std"]) != 3 or min(found["image_std"]) <= 0:
            raise ValueError
        return found
    except (OSError, ValueError, KeyError, TypeError):
        raise PersresError(f"{file} does not give image_mean and image_std as three numbers each.") from None
