"""State dicts of CLIP and DINO in the names that transformers reads, from the files that their authors published."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file

from ...errors import PersresError, first_line

State = dict[str, torch.Tensor]


def read_state(path: Path, what: str) -> State:
    """The tensors of a .safetensors file, a state dict saved by torch, or a TorchScript archive (OpenAI's .pt)."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():  # of archives, and of their age
            warnings.simplefilter("ignore")
            try:
                found = torch.load(path, map_location="cpu", weights_only=True)
            except Exception:
                # OpenAI's CLIP files are TorchScript archives, which torch.load refuses
                found = torch.jit.load(path, map_location="cpu").state_dict()
    except Exception as error:  # what the formats' readers raise on a broken file has no common family
        raise PersresError(f"{path} cannot be read as weights of {what}: {first_line(error)}.") from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(v, torch.Tensor) for v in found.values()) or not found:
        raise PersresError(f"{path} holds no weights of {what}.")
    return {name: tensor.detach().float() for name, tensor in found.items()}


def clip_names(state: State) -> State:
    """OpenAI's names -> transformers'; a state that has those already is returned as it is."""
    if "visual.conv1.weight" not in state:
        return state
    out = {"logit_scale": state["logit_scale"]}
    out["text_model.embeddings.token_embedding.weight"] = state["token_embedding.weight"]
    out["text_model.embeddings.position_embedding.weight"] = state["positional_embedding"]
    out["vision_model.embeddings.class_embedding"] = state["visual.class_embedding"]
    out["vision_model.embeddings.patch_embedding.weight"] = state["visual.conv1.weight"]
    out["vision_model.embeddings.position_embedding.weight"] = state["visual.positional_embedding"]
    out["text_projection.weight"] = state["text_projection"].T.contiguous()
    out["visual_projection.weight"] = state["visual.proj"].T.contiguous()
    for theirs, ours in (
        ("ln_final", "text_model.final_layer_norm"),
        ("visual.ln_pre", "vision_model.pre_layrnorm"),
        ("visual.ln_post", "vision_model.post_layernorm"),
    ):
        for kind in ("weight", "bias"):
            out[f"{ours}.{kind}"] = state[f"{theirs}.{kind}"]
    for name, tensor in state.items():
        for theirs, ours in (("transformer.", "text_model."), ("visual.transformer.", "vision_model.")):
            if name.startswith(theirs + "resblocks."):
                layer, _, rest = name.removeprefix(theirs + "resblocks.").partition(".")
                out.update(_clip_block(f"{ours}encoder.layers.{layer}.", rest, tensor))
    return out


def _clip_block(prefix: str, name: str, tensor: torch.Tensor) -> State:
    if name.startswith("attn.in_proj_"):
        kind = name.removeprefix("attn.in_proj_")
        parts = tensor.chunk(3)
        return {f"{prefix}self_attn.{p}_proj.{kind}": part.contiguous() for p, part in zip("qkv", parts)}
    for theirs, ours in (
        ("attn.out_proj", "self_attn.out_proj"),
        ("ln_1", "layer_norm1"),
        ("ln_2", "layer_norm2"),
        ("mlp.c_fc", "mlp.fc1"),
        ("mlp.c_proj", "mlp.fc2"),
    ):
        if name.startswith(theirs + "."):
            return {prefix + ours + name.removeprefix(theirs): tensor}
    return {prefix + name: tensor}  # unknown: the check of the names reports it


def dino_names(state: State) -> State:
    """The original DINO's names -> those of transformers' published ViT files; others are returned as they are."""
    # checkpoints of whole trainings keep the backbone under "module." or "backbone."
    state = {name.removeprefix("module.").removeprefix("backbone."): tensor for name, tensor in state.items()}
    if "patch_embed.proj.weight" not in state:
        return {name.removeprefix("vit."): tensor for name, tensor in state.items()}
    out = {}
    for name, tensor in state.items():
        if name.startswith("blocks."):
            _, layer, rest = name.split(".", 2)
            out.update(_dino_block(f"encoder.layer.{layer}.", rest, tensor))
        elif name in ("cls_token", "pos_embed"):
            out["embeddings." + {"pos_embed": "position_embeddings"}.get(name, name)] = tensor
        elif name.startswith("patch_embed.proj."):
            out[name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")] = tensor
        elif name.startswith("norm."):
            out["layer" + name] = tensor
        elif not name.startswith("head."):
            out[name] = tensor
    return out


def _dino_block(prefix: str, name: str, tensor: torch.Tensor) -> State:
    if name.startswith("attn.qkv."):
        kind = name.removeprefix("attn.qkv.")
        words = ("query", "key", "value")
        parts = zip(words, tensor.chunk(3))
        return {f"{prefix}attention.attention.{word}.{kind}": part.contiguous() for word, part in parts}
    for theirs, ours in (
        ("attn.proj", "attention.output.dense"),
        ("norm1", "layernorm_before"),
        ("norm2", "layernorm_after"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    ):
        if name.startswith(theirs + "."):
            return {prefix + ours + name.removeprefix(theirs): tensor}
    return {prefix + name: tensor}
