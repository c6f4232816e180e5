"""What a file or a folder is that was given for a checkpoint, by its first bytes, its names and its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..metadata import FORMAT

WANTED = "a whole SD1, SD2 or SDXL checkpoint is wanted here, a .safetensors or .ckpt file of 2 to 14 GB"

# What it is, beginnings of names, parts of names: one of them is there. The first that fits counts.
CHECKPOINTS = (
    ("a ControlNet", ("control_model.", "controlnet_", "input_hint_block.", "zero_convs.", "lllite_"), ()),
    ("an SD3 checkpoint", ("model.diffusion_model.joint_blocks.", "joint_blocks."), ()),
    ("a Flux checkpoint", ("model.diffusion_model.double_blocks.", "double_blocks."), ()),
)
LORA = (".lora_A.", ".lora_B.", ".lora_down.", ".lora_up.", ".lora.down", ".lora.up", "hada_w", "lokr_", "oft_blocks")
PARTS = (
    ("a LoRA", ("lora_",), LORA),
    ("an IP-Adapter", ("ip_adapter.", "image_proj."), ()),
    ("a motion module of AnimateDiff", (), ("motion_modules.",)),
    ("a UNet in diffusers' format", ("down_blocks.", "up_blocks.", "mid_block."), ()),
    ("a UNet alone", ("input_blocks.", "diffusion_model."), ()),
    ("a VAE", ("decoder.", "encoder.down", "encoder.mid", "post_quant_conv."), ()),
    ("a text encoder", ("text_model.", "transformer.text_model."), ()),
    ("a textual inversion embedding", ("emb_params", "string_to_param", "clip_l", "clip_g", "<"), ()),
    ("an upscaler", ("model.0.", "conv_first.", "body.", "params.", "params_ema."), ()),
)
FIRST_OPEN_CLIP, SD2, SDXL = "conditioner.embedders.0.model.", "cond_stage_model.model.", "conditioner.embedders."
"""How names of text encoders begin: SDXL's first is CLIP's, and OpenCLIP's where there is no other."""
VECTORS = "model.diffusion_model.label_emb."
WIDTHS = (768, 1024, 1280)
"""Of the text encoders that embeddings are made for."""
MAGIC = (
    (b"GGUF", "a GGUF file, whose numbers are quantized"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"<", "not a safetensors file but a page of text, as a failed download leaves"),
)


def of_tensors(tensors: Mapping, metadata: Mapping[str, str]) -> str | None:
    """A phrase for what a file of these tensors is, None for what may be a checkpoint of SD1, SD2 or SDXL."""
    if metadata.get("format") == FORMAT:
        return "a residual of this extension, which a prompt's <persres:…> tag names"
    if any(name.startswith(FIRST_OPEN_CLIP) for name in tensors):
        return "SDXL's refiner or SD Turbo"
    if any(name.startswith(SD2) for name in tensors) and any(name.startswith(VECTORS) for name in tensors):
        return "an unCLIP checkpoint, which makes variations of a picture"
    # a checkpoint may bring along what it does not need, but not another model's parts
    whole = any(name.startswith("model.diffusion_model.") for name in tensors)
    for kind, beginnings, parts in CHECKPOINTS + (() if whole else PARTS):
        if any(name.startswith(beginnings) or any(part in name for part in parts) for name in tensors):
            return kind
    if len(tensors) == 1:  # under the word's own name, as diffusers writes it
        (tensor,) = tensors.values()
        if len(tensor.shape) in (1, 2) and tensor.shape[-1] in WIDTHS:
            return "a textual inversion embedding"
    return None


def family_of(tensors: Mapping) -> str:
    """Of a checkpoint's tensors."""
    if any(name.startswith((SDXL, VECTORS)) for name in tensors):
        return "SDXL"
    return "SD2" if any(name.startswith(SD2) for name in tensors) else "SD1"


def of_content(content: object) -> str | None:
    """The same of what a pickle holds."""
    if not isinstance(content, dict):
        return "a single tensor" if hasattr(content, "shape") else None
    if "string_to_param" in content:
        return "a textual inversion embedding"
    if {"facts", "learned", "losses"} <= content.keys():
        return "the state of an unfinished training"
    if any(type(key) is int for key in content):
        return "a hypernetwork"
    return None


def of_start(start: bytes) -> str | None:
    """By a file's first bytes."""
    return next((kind for magic, kind in MAGIC if start.startswith(magic)), None)


def of_folder(folder: Path) -> str:
    """A sentence without its full stop on what is in a folder."""
    try:
        if (folder / "model_index.json").is_file() or (folder / "unet").is_dir():
            return (
                "a folder in diffusers' format; convert it with diffusers' convert_diffusers_to_original_stable_"
                "diffusion.py and give the file"
            )
        found = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".safetensors", ".ckpt") and p.is_file())
    except OSError:
        found = []
    if len(found) == 1:
        return f"a folder: give the file in it, {found[0].name}"
    return "a folder: give the checkpoint's .safetensors file"
