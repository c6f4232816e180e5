"""A frozen UNet's layers for training: the same numbers, less kept for the backward pass, and none of it for weights.

torch keeps a layer's input for its weight's gradient even where the weight is frozen (convolutions), and every step of
a chain where one tensor would do (norm and SiLU, GEGLU). These functions keep what the input's gradient needs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

aten = torch.ops.aten

Sides = tuple[int, int]
Gradients = tuple[torch.Tensor | None, ...]
"""Those of a function's inputs."""

FEW_ROWS = 320
"""Pixels of the whole batch up to which a wide 3×3 convolution on CPU is one matrix product (docs/decisions.md)."""
WIDE = 1 << 20
"""Weights of one tap from which a convolution counts as wide."""


class FrozenConv2d(Function):
    """conv2d(x, weight, bias) for x: (b, c, h, w), whose backward keeps the weight alone."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: Sides,
        padding: Sides,
    ) -> torch.Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.stride, ctx.padding = x.shape, stride, padding
        if _as_product(x, weight, stride, padding):
            return _product(x, weight, bias)
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> Gradients:
        (weight,) = ctx.saved_tensors
        if _as_product(gradient, weight, ctx.stride, ctx.padding):
            return _product_backward(gradient, weight), None, None, None, None
        # stands for the input, of which only the shape is read
        shape = gradient.new_empty(1).expand(ctx.shape)
        x, _, _ = aten.convolution_backward(
            gradient, shape, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1, (True, False, False)
        )
        return x, None, None, None, None


def _as_product(x: torch.Tensor, weight: torch.Tensor, stride: Sides, padding: Sides) -> bool:
    """Whether to multiply by the weight as it lies: torch's CPU kernels rearrange all of it at each call, which costs
    more than the arithmetic where it meets few pixels."""
    return (
        x.device.type == "cpu"
        and tuple(weight.shape[2:]) == (3, 3)
        and stride == (1, 1)
        and padding == (1, 1)
        and x.shape[0] * x.shape[2] * x.shape[3] <= FEW_ROWS
        and weight.shape[0] * weight.shape[1] >= WIDE
        and weight.is_contiguous()
    )


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    b, _, h, w = x.shape
    columns = F.unfold(x, 3, padding=1)  # b, 9c, hw
    columns = columns.transpose(0, 1).reshape(columns.shape[1], b * h * w)
    out = torch.mm(weight.flatten(1), columns).view(-1, b, h, w).transpose(0, 1)
    return out + bias.view(-1, 1, 1) if bias is not None else out.contiguous()


def _product_backward(gradient: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    b, m, h, w = gradient.shape
    columns = torch.mm(weight.flatten(1).t(), gradient.transpose(0, 1).reshape(m, b * h * w))
    columns = columns.view(-1, 3, 3, b, h, w)
    # fold, which torch has no fast form of for halves
    x = gradient.new_zeros(len(columns), b, h + 2, w + 2)
    for i in range(3):
        for j in range(3):
            x[:, :, i : i + h, j : j + w] += columns[:, i, j]
    return x[:, :, 1:-1, 1:-1].transpose(0, 1).contiguous()


class NormSilu(Function):
    """SiLU(group_norm(x)) for x: (b, c, …), whose backward keeps x and the groups' moments."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float
    ) -> torch.Tensor:
        x = x.contiguous(memory_format=_layout(x))
        y, mean, rstd = _norm(x, weight, bias, groups, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.groups, ctx.eps = groups, eps
        return F.silu(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> Gradients:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        y, _, _ = _norm(x, weight, bias, ctx.groups, ctx.eps)
        # of x's layout: the kernel takes it for granted
        gradient = aten.silu_backward(gradient, y).contiguous(memory_format=_layout(x))
        del y
        b, c = x.shape[:2]
        gradient, _, _ = aten.native_group_norm_backward(
            gradient, x, mean, rstd, weight, b, c, x[0, 0].numel(), ctx.groups, (True, False, False)
        )
        return gradient, None, None, None, None


def _norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.native_group_norm(x, weight, bias, x.shape[0], x.shape[1], x[0, 0].numel(), groups, eps)


def _layout(x: torch.Tensor) -> torch.memory_format:
    """What the group norm's kernels take: on CUDA they read channels_last memory as if it were contiguous."""
    if x.device.type != "cpu":
        return torch.contiguous_format
    is_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last and not x.is_contiguous() else torch.contiguous_format


class Geglu(Function):
    """x₁ · GELU(x₂) for (x₁, x₂) the halves of x: (…, 2d), whose backward keeps x."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        value, gate = x.chunk(2, dim=-1)
        return value * F.gelu(gate)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        value, gate = x.chunk(2, dim=-1)
        out = torch.empty_like(x)
        of_value, of_gate = out.chunk(2, dim=-1)
        torch.mul(gradient, F.gelu(gate), out=of_value)
        of_gate.copy_(aten.gelu_backward(gradient * value, gate))
        return out


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    """softmax(q kᵀ / √d) v, head by head; q: (b, n, heads·d), k, v: (b, m, heads·d) -> (b, n, heads·d)."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
