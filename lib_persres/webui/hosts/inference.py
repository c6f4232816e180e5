"""Weights that were made under torch.inference_mode, for a training that goes through them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn


@contextlib.contextmanager
def plain_tensors(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within it autograd may keep the modules' parameters and buffers. They take over the memory of the module's own,
    which get it back at its end, wherever the host moved the numbers meanwhile: nothing is copied, and no number can
    change."""
    before: list[tuple[Any, str, Any, torch.Tensor]] = []
    try:
        for kept, name, own in _inference_tensors(modules):
            plain = _plain(own)
            before.append((kept, name, own, plain))
            kept[name] = plain
        with torch.inference_mode():
            for _, _, own, _ in before:
                own.data = torch.empty(0, dtype=own.dtype, device=own.device)  # else it would hold what the host frees
        yield
    finally:
        with torch.inference_mode():
            for kept, name, own, plain in before:
                own.data = _of_same_memory(plain)
                if kept.get(name) is plain:  # else the host has put another there
                    kept[name] = own


def plain_again(modules: Iterable[nn.Module]) -> None:
    """Within `plain_tensors`, after the host moved these: what it moves becomes a tensor of inference mode. Parameters
    that were made in that mode stay what they are."""
    for kept, name, tensor in _inference_tensors(modules):
        if _keeps_a_version(tensor):
            tensor.data = _plain(tensor)
        elif not isinstance(tensor, nn.Parameter):  # of a buffer a move makes another
            kept[name] = _plain(tensor)


def _inference_tensors(modules: Iterable[nn.Module]) -> list[tuple[Any, str, torch.Tensor]]:
    """(where it is kept, its name there, tensor) of each in the modules."""
    parts = [part for top in modules for part in top.modules()]
    kept = [kept for part in parts for kept in (part._parameters, part._buffers)]
    return [
        (each, name, tensor)
        for each in kept
        for name, tensor in each.items()
        if tensor is not None and tensor.is_inference()
    ]


def _keeps_a_version(tensor: torch.Tensor) -> bool:
    """As autograd needs; whatever was made in inference mode does not, nor can it learn to."""
    try:
        return tensor._version >= 0
    except RuntimeError:
        return False


def _plain(own: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode(False), torch.no_grad():
        plain = _of_same_memory(own)
        return nn.Parameter(plain, requires_grad=False) if isinstance(own, nn.Parameter) else plain


def _of_same_memory(tensor: torch.Tensor) -> torch.Tensor:
    """Of the kind that the mode makes."""
    made = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return made.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())
