"""Reading a checkpoint's tensors, and telling in one sentence why a file is not one."""

import json
import os
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lib_persres.errors import PersresError

PICKLES = {".ckpt", ".pt", ".pth", ".bin"}

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."

# The first name that a file holds, of any of these beginnings, tells what it is instead of SD1.
OTHER_FAMILIES = {
    "conditioner.": "an SDXL checkpoint",
    "cond_stage_model.model.": "an SD2 checkpoint",
    "model.diffusion_model.joint_blocks.": "an SD3 checkpoint",
    "model.diffusion_model.double_blocks.": "a Flux checkpoint",
    "double_blocks.": "a Flux model",
    "lora_": "a LoRA, not a checkpoint",
    "down_blocks.": "a UNet in diffusers' format",
}

ADVICE = "A model of other sizes than SD1.x needs its yaml beside it, under the same name."


def read(path) -> dict[str, torch.Tensor]:
    """All tensors of a .safetensors file, or of a pickle that holds nothing but weights, on the CPU."""
    path = Path(path)
    if path.is_dir():
        raise PersresError(f"{path} is a folder: give the checkpoint's .safetensors file.")
    if not path.is_file():
        raise PersresError(f"{path} does not exist: give the path of a Stable Diffusion checkpoint.")
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    if path.suffix.lower() in PICKLES:
        return _read_pickle(path)
    raise PersresError(f"{path} is not a checkpoint: its name must end in .safetensors or .ckpt.")


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    # The layout: 8 bytes with the header's length, the header in JSON, the tensors' bytes.
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, 100_000_000):
            # Asked only now: a header's length may begin with the same bytes.
            if start.startswith((b"PK", b"\x80")):
                raise PersresError(f"{path} is a pickle under a safetensors name: convert it first.")
            raise PersresError(f"{path} is not a safetensors file, or it is truncated: download it again.")
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise PersresError(f"{path} is not a safetensors file: its header cannot be read.") from error
    expected = 8 + length + max(ends, default=0)
    if size < expected:
        raise PersresError(f"{path} is truncated, {size} of {expected} bytes: download it again.")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise PersresError(f"{path} cannot be read as safetensors: {error}.") from error


def _read_pickle(path: Path) -> dict[str, torch.Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise PersresError(
            f"{path} is refused, since it is not a pickle of weights alone and could run code: "
            "use the model's .safetensors file."
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, LookupError) as error:
        raise PersresError(f"{path} is damaged or truncated: download it again.") from error
    if isinstance(content, dict):
        content = content.get("state_dict", content)
    if not isinstance(content, dict):
        raise PersresError(f"{path} is not a checkpoint: it holds no named tensors.")
    return {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}


def split(state: dict[str, torch.Tensor], path) -> tuple[dict, dict, dict]:
    """The tensors of the UNet, the autoencoder and the text encoder of an SD1 checkpoint, prefixes removed.

    Text names come back as `transformer.text_model.…`, also from the oldest files (`transformer.…`).
    """
    for beginning, family in OTHER_FAMILIES.items():
        if any(name.startswith(beginning) for name in state):
            raise PersresError(f"{path} is {family}; only SD1.x checkpoints are supported here.")
    parts = []
    for prefix, what in ((UNET, "UNet"), (VAE, "autoencoder"), (TEXT + "transformer.", "text encoder")):
        part = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
        if not part:
            raise PersresError(f"{path} is not an SD1 checkpoint: it has no {what} ({prefix}*).")
        parts.append(part)
    unet, vae, text = parts
    channels = unet.get("input_blocks.0.0.weight", torch.empty(0, 4)).shape[1]
    if channels in (8, 9):
        kind = "an inpainting" if channels == 9 else "an instruct-pix2pix"
        raise PersresError(f"{path} is {kind} checkpoint ({channels} channels in): use a plain SD1.x model.")
    # Training leftovers of some files, which no model here has.
    vae = {name: t for name, t in vae.items() if not name.startswith(("loss.", "model_ema."))}
    text = {name.removeprefix("text_model."): t for name, t in text.items()}
    known = ("embeddings.", "encoder.", "final_layer_norm.")
    text = {
        "transformer.text_model." + name: t
        for name, t in text.items()
        if name.startswith(known) and not name.endswith("position_ids")
    }
    return unet, vae, text


def check(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], prefix: str, path) -> None:
    """Raise the first difference in names or shapes between a file's tensors and a model's."""
    problem = _difference(found, expected, prefix)
    if problem:
        raise PersresError(f"{path} does not fit its architecture: {problem}. {ADVICE}")


def _difference(found, expected, prefix: str) -> str | None:
    for name, tensor in expected.items():
        if name not in found:
            return f"{prefix}{name} is missing"
        if found[name].shape != tensor.shape:
            return f"{prefix}{name} is {tuple(found[name].shape)} where {tuple(tensor.shape)} is expected"
    extra = next((name for name in found if name not in expected), None)
    return extra and f"{prefix}{extra} has no place in it"
