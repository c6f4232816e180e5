"""The UNet while a residual is learned: frozen, in the wanted precision, with layers that keep little.

All of it is undone at the end, to the bit: flags, modes, forwards and weights.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..errors import PersresError
from ..unet import find_blocks
from .functions import FrozenConv2d, Geglu, NormSilu, attention
from .precision import check_precision

Forward = Callable[..., torch.Tensor]


@contextlib.contextmanager
def frozen(unet: nn.Module) -> Iterator[None]:
    """No weight of the model gets a gradient, and no layer is in training mode."""
    flags = [(weight, weight.requires_grad) for weight in unet.parameters()]
    modes = [(module, module.training) for module in unet.modules()]
    unet.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for weight, flag in flags:
            weight.requires_grad_(flag)


@contextlib.contextmanager
def weights_in(unet: nn.Module, precision: str | None) -> Iterator[None]:
    """The weights in another precision; the very same tensors are back at the end. None: as they are."""
    if precision is None:
        yield
        return
    check_precision(precision)
    dtype = getattr(torch, precision)
    own = [(weight, weight.data) for weight in unet.parameters() if weight.dtype != dtype]
    try:
        for weight, data in own:
            weight.data = data.to(dtype)
        yield
    finally:
        for weight, data in own:
            weight.data = data


@contextlib.contextmanager
def lean(unet: nn.Module) -> Iterator[None]:
    """The layers that `functions` knows, by its functions; each computes in the precision of its weight."""
    with contextlib.ExitStack() as stack:
        for module in unet.modules():
            for layer, forward in _lean_forwards(module):
                stack.enter_context(forward_as(layer, forward))
        yield


@contextlib.contextmanager
def not_in_place(unet: nn.Module) -> Iterator[None]:
    """Some hosts' transformer blocks add into their input, which a norm keeps for the backward pass. Here they add
    beside it, the same to the bit."""
    with contextlib.ExitStack() as stack:
        for module in unet.modules():
            if _may_add_in_place(module):
                stack.enter_context(forward_as(module, _beside(module)))
        yield


def _may_add_in_place(module: nn.Module) -> bool:
    """Blocks that are told transformer_options, with the three parts of SD1's to SDXL's and no others."""
    parts = ("norm1", "attn1", "norm2", "attn2", "norm3", "ff")
    others = ("ff_in", "disable_self_attn", "switch_temporal_ca_to_sa")
    return (
        all(isinstance(getattr(module, part, None), nn.Module) for part in parts)
        and not any(getattr(module, other, None) for other in others)
        and "transformer_options" in inspect.signature(type(module).forward).parameters
    )


def _beside(module: nn.Module) -> Forward:
    def run(x: torch.Tensor, context: torch.Tensor | None = None, **ignored: object) -> torch.Tensor:
        x = x + module.attn1(module.norm1(x))
        x = x + module.attn2(module.norm2(x), context=context)
        return x + module.ff(module.norm3(x))

    return run


@contextlib.contextmanager
def checkpointed(unet: nn.Module) -> Iterator[None]:
    """Gradient checkpointing: a transformer or residual block keeps its input alone and is computed again."""
    blocks = [block.module for block in find_blocks(unet)]
    blocks += [module for module in unet.modules() if hasattr(module, "in_layers") and hasattr(module, "out_layers")]
    with contextlib.ExitStack() as stack:
        for module in blocks:
            stack.enter_context(forward_as(module, _again(module.forward)))
        yield


def _again(forward: Forward) -> Forward:
    def run(*args: Any, **kwargs: Any) -> torch.Tensor:
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return run


@contextlib.contextmanager
def forward_as(module: nn.Module, forward: Forward) -> Iterator[None]:
    """Another forward for one module, on the instance; hooks stay."""
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def _lean_forwards(module: nn.Module) -> Iterator[tuple[nn.Module, Forward]]:
    """The layers of this module that can have another forward, each with it."""
    if isinstance(module, nn.Conv2d) and _is_plain(module):
        yield (
            module,
            lambda x: FrozenConv2d.apply(
                x.to(module.weight.dtype), module.weight, module.bias, module.stride, module.padding
            ),
        )
    elif type(module) is nn.Linear:
        yield module, lambda x: F.linear(x.to(module.weight.dtype), module.weight, module.bias)
    elif type(module) is nn.LayerNorm:
        yield (
            module,
            lambda x: F.layer_norm(
                x.to(module.weight.dtype), module.normalized_shape, module.weight, module.bias, module.eps
            ),
        )
    elif isinstance(module, nn.Sequential):
        for norm, following in zip(module, list(module)[1:]):
            if isinstance(norm, nn.GroupNorm) and norm.affine and isinstance(following, nn.SiLU):
                yield norm, _norm_silu(norm)
                yield following, lambda x: x
    elif type(module).__name__ == "GEGLU" and hasattr(module, "proj"):
        yield module, lambda x: Geglu.apply(module.proj(x))
    elif all(hasattr(module, part) for part in ("to_q", "to_k", "to_v", "to_out", "heads")):
        yield module, _attention(module)


def _is_plain(conv: nn.Conv2d) -> bool:
    return conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros" and conv.padding != "same"


def _norm_silu(norm: nn.GroupNorm) -> Forward:
    return lambda x: NormSilu.apply(x.to(norm.weight.dtype), norm.weight, norm.bias, norm.num_groups, norm.eps)


def _attention(module: nn.Module) -> Forward:
    def run(
        x: torch.Tensor, context: torch.Tensor | None = None, mask: torch.Tensor | None = None, **ignored: object
    ) -> torch.Tensor:
        if mask is not None:
            raise PersresError("A UNet whose attention is masked cannot be trained on.")
        context = x if context is None else context
        return module.to_out(attention(module.to_q(x), module.to_k(context), module.to_v(context), module.heads))

    return run
