"""OpenCLIP's text encoder, as SD2 and SDXL have it, under the names that transformers' CLIP has for its parts."""

from __future__ import annotations

import re
from dataclasses import replace

from .stored import Stored

PLACES = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
PARTS = {
    "ln_1": "layer_norm1",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
PROJECTION = "text_projection"
PADDING = 0
"""What OpenCLIP's tokenizer puts behind a text; CLIP's repeats the end."""

_LAYER = re.compile(r"transformer\.resblocks\.([0-9]{1,4})\.([a-z_0-9.]{1,20})[._](weight|bias)")


def as_clip(found: dict[str, Stored]) -> dict[str, Stored]:
    """`transformer.text_model.…` of OpenCLIP's tensors, and `text_projection`, (d, pooled); others are left out."""
    made: dict[str, Stored] = {}
    for name, tensor in found.items():
        if name == PROJECTION:
            made[name] = tensor
        elif name in PLACES:
            made[f"transformer.text_model.{PLACES[name]}"] = tensor
        elif layer := _LAYER.fullmatch(name):
            number, part, kind = layer.groups()
            inside = f"transformer.text_model.encoder.layers.{number}."
            if part == "attn.in_proj":
                for index, side in enumerate("qkv"):
                    made[f"{inside}self_attn.{side}_proj.{kind}"] = _third(tensor, index)
            elif part in PARTS:
                made[f"{inside}{PARTS[part]}.{kind}"] = tensor
    return made


def own_name(name: str) -> str:
    """OpenCLIP's for one of `as_clip`."""
    name = name.removeprefix("transformer.text_model.")
    for theirs, ours in PLACES.items():
        if name == ours:
            return theirs
    layer = re.fullmatch(r"encoder\.layers\.([0-9]{1,4})\.([a-z_0-9.]{1,40})\.(weight|bias)", name)
    if layer is None:
        return name
    number, part, kind = layer.groups()
    own = {ours: f"{theirs}.{kind}" for theirs, ours in PARTS.items()}
    return f"transformer.resblocks.{number}.{own.get(part, f'attn.in_proj_{kind}')}"


def _third(tensor: Stored, index: int) -> Stored:
    """Of its rows, which are those of q, k and v."""
    if not tensor.shape or tensor.shape[0] % 3:
        return tensor  # whose shape is that of no encoder
    rows = tensor.shape[0] // 3
    return replace(
        tensor,
        shape=(rows, *tensor.shape[1:]),
        read=lambda: tensor.read()[index * rows : (index + 1) * rows].clone(),
    )
