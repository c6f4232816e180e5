"""Weights that were made under torch.inference_mode, for a training that goes through them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn


@contextlib.contextmanager
def plain_tensors(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within it autograd may keep the modules' parameters and buffers. They have the memory of the module's own, which
    are back at its end: nothing is copied, and no number can change."""
    before: list[tuple[Any, str, Any, torch.Tensor]] = []
    try:
        for kept in (kept for top in modules for part in top.modules() for kept in (part._parameters, part._buffers)):
            for name, own in kept.items():
                if own is not None and own.is_inference():
                    plain = _plain(own)
                    before.append((kept, name, own, plain))
                    kept[name] = plain
        yield
    finally:
        for kept, name, own, plain in before:
            # one that the host moved meanwhile stays where that believes it to be
            if plain.device == own.device and kept.get(name) is plain:
                kept[name] = own


def _plain(own: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode(False), torch.no_grad():
        plain = torch.empty(0, dtype=own.dtype, device=own.device)
        plain.set_(own.untyped_storage(), own.storage_offset(), own.size(), own.stride())
        return nn.Parameter(plain, requires_grad=False) if isinstance(own, nn.Parameter) else plain
