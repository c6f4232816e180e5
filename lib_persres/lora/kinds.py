"""The tensors that a file has for one module, as factors of low rank.

Each kind is ΔW = scale · (up · down), or is brought to it exactly: LoCon's middle layers (a kernel between two 1×1
convolutions), LoHa (a product, element by element, of two such: Khatri–Rao products of their factors), LoKr (a
Kronecker product, whose singular vectors are those of its two parts). scale is alpha / rank.

No shape makes more than MAX_WEIGHT numbers of a small file: shapes are looked at before anything is multiplied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from ..errors import PersresError
from ..residual import MAX_CHANGE, Factors

MAX_WEIGHT = 1 << 25
"""Numbers of a matrix that is made here; SDXL's largest weight, 1280 × 2560·3·3, has 29 million."""
MOST = 512
"""Of a LoKr's rank: what needs more is as large as the model itself."""
EXACT = 1e-5
"""Relative error up to which factors stand for what was in the file."""

Parts = Mapping[str, torch.Tensor]
"""By `names.Name.part`, in fp32."""


def factors_of(parts: Parts, module: str) -> Factors:
    """PersresError with a reason alone for what is no change of a weight; `module` is what that calls it."""
    if any(name.startswith("hada") for name in parts):
        down, up, rank = _loha(parts, module)
    elif any(name.startswith("lokr") for name in parts):
        down, up, rank = _lokr(parts, module)
    else:
        down, up, rank = _lora(parts, module)
    alpha = parts.get("alpha", torch.tensor(float(rank)))
    if alpha.numel() != 1 or alpha.item() < 0:
        raise PersresError(f"the alpha of {module} is no number of 0 or more: it was not made rightly")
    scale = alpha.item() / rank if rank else 1.0
    down, up = _acting(down, up * scale)
    largest = (up.abs().amax(0).double() * down.abs().amax(1).double()).sum().item()
    if not largest <= MAX_CHANGE:  # NaN, too
        raise PersresError(
            f"it would change weights of {module} by up to {largest:.1g}, as after a training that diverged"
        )
    return Factors(down.contiguous(), up.contiguous())


def input_width(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Of the module that tensors of these shapes, by their parts, are for; 0 where they do not say."""
    first, second = (
        shapes.get(f"lokr_w{number}") or shapes.get(f"lokr_w{number}_b") or () for number in (1, 2)
    )  # whole, or the half that has the inputs
    if len(first) >= 2 and len(second) >= 2:
        return first[1] * second[1]
    shape = shapes.get("down") or shapes.get("hada_w1_b") or ()
    return shape[1] if len(shape) >= 2 else 0


def _acting(down: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Without the ranks that are zero on both sides, by which some programs bring all modules to one rank."""
    acts = down.any(1) | up.any(0)
    acts[0] |= not acts.any()  # something stays
    return (down, up) if acts.all() else (down[acts], up[:, acts])


def _need(parts: Parts, module: str, *names: str) -> list[torch.Tensor]:
    missing = [name for name in names if name not in parts]
    if missing:
        raise PersresError(f"{module} lacks its {missing[0]}: the file was not written to its end, or cut")
    for name in names:
        if parts[name].ndim < 2:
            raise PersresError(f"the {name} of {module} is of shape {tuple(parts[name].shape)}, not a matrix")
    return [parts[name] for name in names]


def _bound(module: str, *sides: int) -> None:
    if math.prod(sides) > MAX_WEIGHT:
        raise PersresError(f"{module} would be of the absurd size {' × '.join(map(str, sides))}")


def _lora(parts: Parts, module: str) -> tuple[torch.Tensor, torch.Tensor, int]:
    down, up = _need(parts, module, "down", "up")
    rank = down.shape[0]
    if up.shape[1:] != (rank,) and up.shape[1:] != (rank, 1, 1):
        raise _misfit(module)
    if "mid" in parts:
        (mid,) = _need(parts, module, "mid")
        if mid.ndim != 4 or mid.shape[:2] != (rank, rank) or math.prod(down.shape[2:]) != 1:
            raise _misfit(module)
        _bound(module, rank, down.shape[1], *mid.shape[2:])
        # the kernel acts on what the 1×1 convolution before it gives
        down = torch.einsum("orhw,ri->oihw", mid, down.flatten(1))
    return down.flatten(1), up.flatten(1), rank


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
    out, width = a1.shape[0], b1.shape[1]
    _bound(module, out, width)
    if a1.shape[1] * a2.shape[1] > min(out, width):
        whole = (a1 @ b1) * (a2 @ b2)  # itself and the identity are its factors
        return (whole, torch.eye(out), rank) if out <= width else (torch.eye(width), whole, rank)
    up = (a1[:, :, None] * a2[:, None, :]).flatten(1)
    down = (b1[:, None, :] * b2[None, :, :]).flatten(0, 1)
    return down, up, rank


def _tucker(t: torch.Tensor, a: torch.Tensor, b: torch.Tensor, module: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A core (r, r, h, w) between a (r, m) and b (r, n), as up (m, r) and down (r, n·h·w)."""
    if t.ndim != 4 or a.ndim != 2 or b.ndim != 2 or t.shape[0] != a.shape[0] or t.shape[1] != b.shape[0]:
        raise _misfit(module)
    _bound(module, t.shape[0], b.shape[1], *t.shape[2:])
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
            kernel = parts["lokr_t2"].shape[2:]
            a, b = _tucker(parts["lokr_t2"], a, b, module)
        else:
            kernel = b.shape[2:]
            a, b = a.flatten(1), b.flatten(1)
        if a.shape[1] != b.shape[0]:
            raise _misfit(module)
        _bound(module, a.shape[0], b.shape[1])
        sides.append((a @ b).unflatten(1, (-1, *kernel)))
    first, second = sides
    if first.ndim != 2 or second.ndim not in (2, 4):
        raise _misfit(module)
    second = second.flatten(1)
    _bound(module, *first.shape, *second.shape)
    (u1, s1, vh1), (u2, s2, vh2) = _svd(first, module), _svd(second, module)
    s, order = torch.outer(s1, s2).flatten().sort(descending=True)
    count = _needed(s)
    if count > MOST:
        raise PersresError(f"{module} is a LoKr of rank {count}, as large as the model's own: use it as <lora:...>")
    at1, at2 = order[:count] // len(s2), order[:count] % len(s2)
    root = s[:count].sqrt()
    up = (u1[:, None, at1] * u2[None, :, at2]).flatten(0, 1) * root
    down = root[:, None] * (vh1[at1, :, None] * vh2[at2, None, :]).flatten(1)
    return down.float(), up.float(), rank


def _svd(delta: torch.Tensor, module: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the rank that is needed, in fp64."""
    try:
        u, s, vh = torch.linalg.svd(delta.double(), full_matrices=False)
    except torch.linalg.LinAlgError as error:  # of what is not finite
        raise PersresError(f"the values of {module} are too large together") from error
    rank = _needed(s)
    return u[:, :rank], s[:rank], vh[:rank]


def _needed(s: torch.Tensor) -> int:
    """How many of these singular values, the largest first, are the matrix up to EXACT; 1 at least."""
    left = s.square().flip(0).cumsum(0).flip(0).sqrt()
    return max(1, int((left > EXACT * left[0]).sum().item()))


def _misfit(module: str) -> PersresError:
    return PersresError(f"the tensors of {module} do not fit one another: it was not made rightly")
