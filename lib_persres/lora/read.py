"""A LoRA file of any program: which modules of which models it changes, each by factors, see `kinds`."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from ..errors import PersresError, first_line, readable
from ..metadata import FORMAT
from ..residual import ENCODERS, MAX_FILE, MAX_SIDE, MAX_VALUE, Factors
from ..tensor_file import FLOATS, Place, TensorFile
from .kinds import factors_of, input_width
from .names import BUNDLED, SDXL, TEXT, UNET, read_name, text_path, unet_path

FAMILIES = {768: "SD1", 1024: "SD2", 2048: SDXL}
"""By the width of the text's vectors, the input of the cross-attentions' keys and values."""
OF_TEXTS = {768: "SD1", 1024: "SD2"}
"""By the width of the only text encoder."""
MAX_MADE = 2 * MAX_FILE
"""Bytes of all factors: those of the largest file of fp16, in fp32."""

NOTHING = Factors(torch.empty(0, 0), torch.empty(0, 0))
"""In the place of factors that are not read."""
RANKED = ("down", "hada_w1_b", "lokr_w1_b", "lokr_w2_b")
"""Whose first side is the rank."""
INTEGERS = {"I64": ("F64", torch.int64), "I32": ("F32", torch.int32)}
"""What some programs write an alpha as: floats of its size, by which its bytes are read, and its own kind."""


@dataclass(frozen=True)
class Lora:
    """family: "SD1", "SD2" or "SDXL", "" where the file does not tell. unet, text: module path -> factors in fp32, of
    each text encoder of `residual.ENCODERS`. strings: the header's. notes: sentences on what was passed over. rank: the
    largest."""

    family: str
    unet: dict[str, Factors]
    text: dict[str, dict[str, Factors]] = field(default_factory=dict)
    strings: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    rank: int = 0


def read_lora(path: str | os.PathLike[str]) -> Lora:
    """PersresError: one sentence that names the file and says what is wrong with it."""
    try:
        with TensorFile(path, MAX_FILE) as file:
            parts, passed = _parts(file)
            lora = _made(parts, dict(file.strings), passed)
            file.check_unchanged()
        return lora
    except (PersresError, OSError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise PersresError(f"{path} cannot be used as a LoRA: {reason}.") from error


def outline_lora(path: str | os.PathLike[str]) -> Lora:
    """The file as `read_lora` gives it, but that its factors are not read: it has none."""
    try:
        with TensorFile(path, MAX_FILE) as file:
            shapes: dict[Key, dict[str, tuple[int, ...]]] = defaultdict(dict)
            for name, place in file.places().items():
                if found := read_name(name):
                    shapes[found.where, found.encoder, found.module][found.part] = place.shape
                    if found.part in _REFUSED:
                        raise PersresError(_REFUSED[found.part])
            family = _family(shapes)
            paths = (unet_path(module, family) for where, _, module in shapes if where == UNET)
            ranks = [own[part][0] for own in shapes.values() for part in RANKED if own.get(part)]
            nothing = {path: NOTHING for path in paths if path}
            return Lora(family, nothing, {}, dict(file.strings), rank=max(ranks, default=0))
    except (PersresError, OSError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise PersresError(f"{path} cannot be used as a LoRA: {reason}.") from error


def is_lora(names: list[str]) -> bool:
    """Whether a file with tensors of these names is for `read_lora`."""
    return any(map(read_name, names))


Key = tuple[str, int, str]
"""Where, the text encoder's number, and the module's name with underscores."""


def _parts(file: TensorFile) -> tuple[dict[Key, dict[str, torch.Tensor]], list[str]]:
    """The tensors of each module, and the names of the others."""
    if file.strings.get("format") == FORMAT:
        raise PersresError("it is a concept's residual, not a LoRA: name it in a prompt by <persres:...>")
    parts: dict[Key, dict[str, torch.Tensor]] = defaultdict(dict)
    passed = []
    for name, place in file.places().items():
        found = read_name(name)
        if found is None:
            passed.append(name)
            continue
        if found.part in _REFUSED:
            raise PersresError(_REFUSED[found.part])
        key = found.where, found.encoder, found.module
        if found.part in parts[key]:
            raise PersresError(f"{readable(name, 80)} stands in it twice, by two programs' names")
        parts[key][found.part] = _tensor(file, name, place, integers=found.part == "alpha")
    if not parts:
        raise PersresError(_likeness(passed))
    return parts, passed


def _tensor(file: TensorFile, name: str, place: Place, integers: bool) -> torch.Tensor:
    """In fp32."""
    if max(place.shape, default=0) > MAX_SIDE or len(place.shape) > 4 or 0 in place.shape:
        raise PersresError(f"{readable(name, 80)} is of the absurd shape {place.shape}")
    if integers and place.kind in INTEGERS and place.end - place.begin == FLOATS[INTEGERS[place.kind][0]].itemsize:
        kind, own = INTEGERS[place.kind]
        return file.tensor(replace(place, kind=kind, shape=(1,))).view(own).float()
    if place.kind not in FLOATS:
        raise PersresError(
            f"{readable(name, 80)} is stored as {readable(place.kind, 20)}: take a file of fp16, bf16 or fp32"
        )
    tensor = file.tensor(place).float()
    if not tensor.abs().max().item() <= MAX_VALUE:
        raise PersresError(f"values of {readable(name, 80)} are not finite, or larger than any model's")
    return tensor


_REFUSED = {
    "dora": "it is a DoRA, which also scales the model's own weights: use it as <lora:...>, without LAG",
    "oft": "it is an OFT, which turns the model's own weights: use it as <lora:...>, without LAG",
    "diff": "it holds whole changes of weights and no factors: use it as <lora:...>, without LAG",
    "glora": "it is a GLoRA, which multiplies the model's own weights: use it as <lora:...>, without LAG",
    "ia3": "it is an IA3, which scales the model's own weights: use it as <lora:...>, without LAG",
}


def _likeness(names: list[str]) -> str:
    """What is wrong with a file that has none of a LoRA's tensors."""
    if any(name.startswith(("model.diffusion_model.", "first_stage_model.")) for name in names):
        return "it is a whole checkpoint, not a LoRA: put it into the folder of checkpoints"
    if {"emb_params", "clip_l", "clip_g"}.intersection(names):
        return "it is a textual inversion embedding, not a LoRA: put it into the folder of embeddings"
    if names and all(map(BUNDLED.fullmatch, names)):
        return "it holds an embedding alone and no factors: use it as <lora:...>"
    return "it has no tensors that a LoRA of SD1, SD2 or SDXL has: take one that is for them"


def _made(parts: dict[Key, dict[str, torch.Tensor]], strings: dict[str, str], passed: list[str]) -> Lora:
    family = _family({key: {part: tuple(t.shape) for part, t in own.items()} for key, own in parts.items()})
    unet: dict[str, Factors] = {}
    text: dict[str, dict[str, Factors]] = defaultdict(dict)
    made = 0
    for where, encoder, module in list(parts):
        own = parts.pop((where, encoder, module))  # what is made takes its place in memory
        if own.keys() == {"alpha"}:
            passed.append(f"{module}.alpha")  # of a layer that was dropped from training
            continue
        path = unet_path(module, family) if where == UNET else text_path(module)
        if path is None:
            passed.append(module)
            continue
        place = unet if where == UNET else text[_encoder(encoder, family)]
        if path in place:
            raise PersresError(f"{path} stands in it twice, by two programs' names")
        place[path] = factors_of(own, readable(module, 80))
        made += 4 * (place[path].down.numel() + place[path].up.numel())
        if made > MAX_MADE:
            raise PersresError(f"as factors it would take more than {MAX_MADE >> 20} MiB: use it as <lora:...>")
    if not unet and not text:
        raise PersresError("none of its tensors is for a module of SD1, SD2 or SDXL: take a LoRA that is for them")
    rank = max((factors.rank for factors in unet.values()), default=0)
    return Lora(family, unet, dict(text), strings, tuple(_notes(passed)), rank)


def _notes(passed: list[str]) -> list[str]:
    """Sentences on the tensors that are passed over."""
    words = {name: found[1] for name in passed if (found := BUNDLED.fullmatch(name))}
    unknown = sorted(name for name in passed if name not in words)
    notes = []
    if unknown:
        others = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        notes.append(
            f"It has tensors that are for no module that we know, which are left out: {unknown[0][:80]}{others}."
        )
    if words:
        named = ", ".join(dict.fromkeys(words.values()))
        notes.append(f"It brings an embedding along, which is left out and would act with <lora:...>: {named[:80]}.")
    return notes


def _family(shapes: Mapping[Key, Mapping[str, tuple[int, ...]]]) -> str:
    """By the widths of what sees the text; else by the text encoders and the depths of the blocks."""
    for (where, _, module), own in shapes.items():
        if where == UNET and module.endswith(("attn2_to_k", "attn2_to_v")) and input_width(own) in FAMILIES:
            return FAMILIES[input_width(own)]
    if any(number for _, number, _ in shapes):  # kohya numbers them where there are two
        return SDXL
    if any(
        "transformer_blocks_1_" in module or module.startswith(("label_emb_", "add_embedding_"))
        for where, _, module in shapes
        if where == UNET
    ):
        return SDXL
    widths = (
        input_width(own)
        for (where, _, module), own in shapes.items()
        if where == TEXT and module.endswith(("q_proj", "k_proj", "v_proj", "out_proj", "fc1"))
    )
    return next((OF_TEXTS[width] for width in widths if width in OF_TEXTS), "")


def _encoder(number: int, family: str) -> str:
    if family != SDXL and number == 2:
        raise PersresError(
            "it is for two text encoders, which only SDXL has, and its UNet's part is for another family"
        )
    return ENCODERS[max(1, number)] if family == SDXL else ENCODERS[0]
