"""A LoRA file of any program, as factors of low rank.

Each kind is ΔW = scale · (up · down), or is brought to it exactly: LoCon's middle layers (a kernel between two 1×1
convolutions), LoHa (a product, element by element, of two such: Khatri–Rao products of their factors), LoKr (a
Kronecker product, whose factors are those of its two parts). scale is alpha / rank.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from ..errors import PersresError, first_line, readable
from ..residual import ENCODERS, MAX_FILE, MAX_SIDE, MAX_VALUE, Factors
from ..tensor_file import FLOATS, TensorFile
from .names import SDXL, TEXT, UNET, read_name, text_path, unet_path

FAMILIES = {768: "SD1", 1024: "SD2", 2048: SDXL}
"""By the width of the text's vectors, the input of the cross-attentions' keys and values."""
MOST = 512
"""Of a rank: what needs more is as large as the model itself."""
EXACT = 1e-5
"""Relative error up to which factors stand for what was in the file."""

NOTHING = Factors(torch.empty(0, 0), torch.empty(0, 0))
"""In the place of factors that are not read."""
Parts = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Lora:
    """family: "SD1", "SD2" or "SDXL", "" where the file does not tell. unet, text: module path -> factors in fp32, of
    each text encoder of `residual.ENCODERS`. strings: the header's. notes: sentences on what was passed over."""

    family: str
    unet: dict[str, Factors]
    text: dict[str, dict[str, Factors]] = field(default_factory=dict)
    strings: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_lora(path: str | os.PathLike[str]) -> Lora:
    """PersresError: one sentence that names the file and says what is wrong with it."""
    try:
        with TensorFile(path, MAX_FILE) as file:
            parts, unknown = _parts(file)
            lora = _made(parts, dict(file.strings), unknown)
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
            return Lora(family, {path: NOTHING for path in paths if path}, {}, dict(file.strings))
    except (PersresError, OSError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise PersresError(f"{path} cannot be used as a LoRA: {reason}.") from error


def is_lora(names: list[str]) -> bool:
    """Whether a file with tensors of these names is for `read_lora`."""
    return any(map(read_name, names))


Key = tuple[str, int, str]
"""Where, the text encoder's number, and the module's name with underscores."""


def _parts(file: TensorFile) -> tuple[dict[Key, Parts], list[str]]:
    """The tensors of each module, and the names that nobody knows."""
    parts: dict[Key, Parts] = defaultdict(dict)
    places, unknown = file.places(), []
    for name, place in places.items():
        found = read_name(name)
        if found is None:
            unknown.append(name)
            continue
        if found.part in _REFUSED:
            raise PersresError(_REFUSED[found.part])
        if place.kind not in FLOATS:
            raise PersresError(f"{readable(name, 80)} is stored as {readable(place.kind, 20)}, not in floating point")
        if max(place.shape, default=0) > MAX_SIDE or len(place.shape) > 4 or 0 in place.shape:
            raise PersresError(f"{readable(name, 80)} is of the absurd shape {place.shape}")
        key = found.where, found.encoder, found.module
        if found.part in parts[key]:
            raise PersresError(f"{readable(name, 80)} stands in it twice, by two programs' names")
        tensor = file.tensor(place).float()
        if not tensor.abs().max().item() <= MAX_VALUE:
            raise PersresError(f"values of {readable(name, 80)} are not finite, or larger than any model's")
        parts[key][found.part] = tensor
    if not parts:
        raise PersresError("it has no tensors that a LoRA has")
    return parts, unknown


_REFUSED = {
    "dora": "it is a DoRA, which also scales the model's own weights: use it as <lora:...>, without LAG",
    "oft": "it is an OFT, which turns the model's own weights: use it as <lora:...>, without LAG",
    "diff": "it holds whole changes of weights and no factors: use it as <lora:...>, without LAG",
    "ia3": "it is an IA3, which scales the model's own weights: use it as <lora:...>, without LAG",
}


def _made(parts: Mapping[Key, Parts], strings: dict[str, str], unknown: list[str]) -> Lora:
    family = _family({key: {part: tuple(t.shape) for part, t in own.items()} for key, own in parts.items()})
    unet: dict[str, Factors] = {}
    text: dict[str, dict[str, Factors]] = defaultdict(dict)
    for (where, encoder, module), own in parts.items():
        if own.keys() == {"alpha"}:
            unknown.append(f"{module}.alpha")  # of a layer that was dropped from training
            continue
        path = unet_path(module, family) if where == UNET else text_path(module)
        if path is None:
            unknown.append(module)
            continue
        factors = _factors(own, module)
        if where == TEXT:
            text[_encoder(encoder, family)][path] = factors
        elif path in unet:
            raise PersresError(f"{path} stands in it twice, by two programs' names")
        else:
            unet[path] = factors
    if not unet and not text:
        raise PersresError("none of its tensors is for a module of SD1, SD2 or SDXL")
    notes = []
    if unknown:
        others = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        notes.append(
            f"It has tensors that are for no module that we know, which are left out: {unknown[0][:80]}{others}."
        )
    return Lora(family, unet, dict(text), strings, tuple(notes))


def _family(shapes: Mapping[Key, Mapping[str, tuple[int, ...]]]) -> str:
    """By the widths of what sees the text; else by the text encoders and the depths of the blocks."""
    widths = [
        own[part][1]
        for (where, _, module), own in shapes.items()
        for part in ("down", "hada_w1_b")
        if where == UNET and module.endswith(("attn2_to_k", "attn2_to_v")) and len(own.get(part, ())) >= 2
    ]
    if widths:
        return FAMILIES.get(widths[0], "")
    if any(encoder == 2 for _, encoder, _ in shapes):
        return SDXL
    deep = any("transformer_blocks_1_" in module for where, _, module in shapes if where == UNET)
    return SDXL if deep else ""


def _encoder(number: int, family: str) -> str:
    if family != SDXL and number == 2:
        raise PersresError(
            "it is for two text encoders, which only SDXL has, and its UNet's part is for another family"
        )
    return ENCODERS[max(1, number)] if family == SDXL else ENCODERS[0]


# -- one module


def _factors(parts: Parts, module: str) -> Factors:
    if any(name.startswith("hada") for name in parts):
        down, up, rank = _loha(parts, module)
    elif any(name.startswith("lokr") for name in parts):
        down, up, rank = _lokr(parts, module)
    else:
        down, up, rank = _lora(parts, module)
    alpha = parts.get("alpha", torch.tensor(float(rank)))
    if alpha.numel() != 1:
        raise PersresError(f"the alpha of {module} is no number")
    scale = alpha.item() / rank if rank else 1.0
    found = Factors(down.contiguous(), (up * scale).contiguous())
    if found.rank > MOST:
        raise PersresError(f"{module} has rank {found.rank}, more than the {MOST} that are as good as any")
    if not (torch.isfinite(found.down).all() and torch.isfinite(found.up).all()):
        raise PersresError(f"the values of {module} are too large together")
    return found


def _need(parts: Parts, module: str, *names: str) -> list[torch.Tensor]:
    missing = [name for name in names if name not in parts]
    if missing:
        raise PersresError(f"{module} lacks its {missing[0]}: the file was not written to its end, or cut")
    for name in names:
        if parts[name].ndim < 2:
            raise PersresError(f"the {name} of {module} is of shape {tuple(parts[name].shape)}, not a matrix")
    return [parts[name] for name in names]


def _lora(parts: Parts, module: str) -> tuple[torch.Tensor, torch.Tensor, int]:
    down, up = _need(parts, module, "down", "up")
    rank = down.shape[0]
    if "mid" in parts:
        (mid,) = _need(parts, module, "mid")
        flat = down.flatten(1)
        if mid.ndim != 4 or mid.shape[1] != rank or flat.shape[1] != down.shape[1]:
            raise _misfit(module)
        # the kernel acts on what the 1×1 convolution before it gives
        down = torch.einsum("orhw,ri->oihw", mid, flat)
    elif up.ndim == 4 and tuple(up.shape[2:]) != (1, 1):
        raise _misfit(module)
    flat_up = up.flatten(1)
    if flat_up.shape[1] != down.shape[0]:
        raise _misfit(module)
    return down.flatten(1), flat_up, rank


def _loha(parts: Parts, module: str) -> tuple[torch.Tensor, torch.Tensor, int]:
    """(w1a w1b) ⊙ (w2a w2b); with t, w1 = Σ t[i, j, …] w1a[i, :] w1b[j, :] for the kernel's places."""
    a1, b1, a2, b2 = _need(parts, module, "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    rank = b1.shape[0]
    if "hada_t1" in parts or "hada_t2" in parts:
        t1, t2 = _need(parts, module, "hada_t1", "hada_t2")
        a1, b1, a2, b2 = *_tucker(t1, a1, b1, module), *_tucker(t2, a2, b2, module)
    a1, b1, a2, b2 = (tensor.flatten(1) for tensor in (a1, b1, a2, b2))
    if a1.shape[1] != b1.shape[0] or a2.shape[1] != b2.shape[0]:
        raise _misfit(module)
    if a1.shape[0] != a2.shape[0] or b1.shape[1] != b2.shape[1]:
        raise _misfit(module)
    if a1.shape[1] * a2.shape[1] > min(MOST, a1.shape[0], b1.shape[1]):
        down, up = _by_svd((a1 @ b1) * (a2 @ b2), module)
        return down, up, rank
    up = (a1[:, :, None] * a2[:, None, :]).flatten(1)
    down = (b1[:, None, :] * b2[None, :, :]).flatten(0, 1)
    return down, up, rank


def _tucker(t: torch.Tensor, a: torch.Tensor, b: torch.Tensor, module: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A core (r, r, h, w) between a (r, m) and b (r, n), as up (m, r) and down (r, n·h·w)."""
    if t.ndim != 4 or a.ndim != 2 or b.ndim != 2 or t.shape[0] != a.shape[0] or t.shape[1] != b.shape[0]:
        raise _misfit(module)
    return a.t(), torch.einsum("ijhw,jn->inhw", t, b).flatten(1)


def _lokr(parts: Parts, module: str) -> tuple[torch.Tensor, torch.Tensor, int]:
    """kron(w1, w2), each whole or as a product; a rank of 0 where both are whole, which then have no scale."""
    rank = 0
    sides = []
    for number in (1, 2):
        whole, a, b = (parts.get(f"lokr_w{number}{end}") for end in ("", "_a", "_b"))
        if whole is not None:
            sides.append(whole)
            continue
        if a is None or b is None or a.ndim < 2 or b.ndim < 2:
            raise PersresError(f"{module} lacks its lokr_w{number}: the file was not written to its end, or cut")
        rank = b.shape[0]
        if number == 2 and "lokr_t2" in parts:
            up, down = _tucker(parts["lokr_t2"], a, b, module)
            kernel = parts["lokr_t2"].shape[2:]
            sides.append((up @ down).unflatten(1, (-1, *kernel)))
        elif a.shape[1] != b.shape[0]:
            raise _misfit(module)
        else:
            sides.append(torch.tensordot(a.flatten(1), b, 1))
    first, second = sides
    if first.ndim != 2 or second.ndim not in (2, 4):
        raise _misfit(module)
    if first.shape[0] * second.shape[0] > MAX_SIDE or first.shape[1] * math.prod(second.shape[1:]) > MAX_SIDE:
        raise _misfit(module)
    (down1, up1), (down2, up2) = _by_svd(first, module), _by_svd(second.flatten(1), module)
    both = len(down1) * len(down2)
    if both > MOST:
        raise PersresError(f"{module} is a LoKr of rank {both}, as large as the model's own: use it as <lora:...>")
    return torch.kron(down1, down2), torch.kron(up1, up2), rank


def _by_svd(delta: torch.Tensor, module: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The factors of ΔW's own rank; PersresError where it has more than MOST."""
    u, s, vh = torch.linalg.svd(delta.double(), full_matrices=False)
    left = s.square().flip(0).cumsum(0).flip(0).sqrt()
    rank = max(1, int((left > EXACT * left[0]).sum().item()))
    if rank > MOST:
        raise PersresError(f"{module} has rank {rank}, which is as large as the model's own: use it as <lora:...>")
    root = s[:rank].sqrt()
    return (root[:, None] * vh[:rank]).float(), (u[:, :rank] * root).float()


def _misfit(module: str) -> PersresError:
    return PersresError(f"the tensors of {module} do not fit one another: it was not made rightly")
