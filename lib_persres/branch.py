"""Gated low-rank branches on the targets of a UNet, by forward hooks; weights are never touched.

With the factors of those of the K concepts that change target i concatenated, its output is (design §2, equation 3)

    out_i = W_i x + b_i + up_i · (gate ⊙ (down_i x)),   down_i: (Σr, m_in), up_i: (m, Σr),

where the gate repeats G_k, the strength and, where LAG gates the target, the mask of concept k, over its r rows. Where
the target is a convolution, the rows of down are kernels of its size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.hooks import RemovableHandle

from .errors import PersresError
from .keys_values import KeysValues
from .lag import Lag, Listener
from .masks import Mask
from .plan import Plan
from .targets import EVERY
from .unet import Target, find_blocks, find_targets


class Sides(Protocol):
    """The factors of one target: (r, m_in) and (m, r)."""

    @property
    def down(self) -> torch.Tensor: ...

    @property
    def up(self) -> torch.Tensor: ...


class HasFactors(Protocol):
    """A residual, as far as the branches need it: target path -> factors."""

    @property
    def factors(self) -> Mapping[str, Sides]: ...


Cast = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""down (Σr, m_in), up (m, Σr) and each row's concept (Σr,)."""


class Branches:
    """The branches of some residuals on one UNet.

    They act only while `plan` is set: with plan None every hook returns at once and the model is the base model.
    Use as a context manager, or call attach and detach; attach detaches first, detach may be called twice.

    mask: LAG's, of this sampling alone; None: the paper's median. listener: see `lag.Listener`.
    """

    def __init__(
        self,
        unet: nn.Module,
        residuals: Sequence[HasFactors],
        mask: Mask | None = None,
        listener: Listener | None = None,
    ):
        self.residuals = list(residuals)
        changed = {path for residual in self.residuals for path in residual.factors}
        self.targets = [target for target in find_targets(unet, EVERY) if target.path in changed]
        gated = [block.name for target in self.targets if (block := target.gate)]
        anywhere = any((target.has_pixels or target.is_of_text) and not target.gated for target in self.targets)
        blocks = find_blocks(unet)
        self._lag = Lag(blocks, gated, mask, listener, anywhere=anywhere)
        changing = {path: [k for k, each in enumerate(self.residuals) if path in each.factors] for path in changed}
        self._keys_values = KeysValues(self._lag, blocks, changing)
        self._handles: list[RemovableHandle] = []
        self._cast: dict[tuple[str, torch.dtype, torch.device], Cast] = {}

    @property
    def plan(self) -> Plan | None:
        """How the branches act in the UNet's next calls; None: not at all."""
        return self._lag.plan

    @plan.setter
    def plan(self, plan: Plan | None) -> None:
        if plan is not None and plan.strength.shape[1] != len(self.residuals):
            raise PersresError(
                f"The plan is for {plan.strength.shape[1]} concepts, but {len(self.residuals)} are attached."
            )
        self._lag.plan = plan

    def begin(self, step: int, done: float | None) -> None:
        """An evaluation of the denoiser begins, see `masks.Mask.begin`: what its calls share is forgotten."""
        self._lag.begin(step, done)

    def __enter__(self) -> Branches:
        return self.attach()

    def __exit__(self, *_: object) -> None:
        self.detach()

    def attach(self) -> Branches:
        self.detach()
        for target in self.targets:
            self._handles.append(target.module.register_forward_hook(self._add(target)))
        # last, so that the maps are of q and k as they are with what the residuals add
        self._lag.attach()
        self._keys_values.attach()
        return self

    def detach(self) -> None:
        """Remove every hook and forget the plan, the masks and the cast factors."""
        self._keys_values.detach()
        self._lag.detach()
        while self._handles:
            self._handles.pop().remove()
        self._cast.clear()

    def _add(self, target: Target) -> Callable[..., torch.Tensor | None]:
        block = target.gate

        def hook(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
            plan = self.plan
            if plan is None:
                return None
            if plan.idle:
                if block:
                    self._lag.look(block, plan)
                return None
            x = args[0]
            gates = self._lag.gates(block, plan) if block else self._gates_of(target, plan, output)
            if len(x) != len(gates):
                gates = _of_tiles(gates, len(x), target)
            down, up, owner = self._factors(target.path, x)
            gate = gates.to(x.dtype)
            gate = gate if len(self.residuals) == 1 else gate[:, owner]  # (b, Σr or 1, hw or 1)
            if target.is_linear:
                return _add_linear(x, output, down, up, gate)
            return _add_conv(_reduce(x, down, target.module), output, up, gate)

        return hook

    def _gates_of(self, target: Target, plan: Plan, output: torch.Tensor) -> torch.Tensor:
        """Of a target without a mask of its own block."""
        if target.is_of_text:
            return self._keys_values.strengths(plan)[..., None]
        size = None
        if target.has_pixels:
            size = self._lag.size_in(target.block) if target.is_linear and target.block else tuple(output.shape[-2:])
        # where another extension merges tokens or cuts pictures into tiles, these have no place
        if size is None or (target.is_linear and output.shape[1] != size[0] * size[1]):
            return plan.strength[..., None]
        return self._lag.gates_of(size, plan)

    def _factors(self, path: str, x: torch.Tensor) -> Cast:
        """In x's dtype and on its device."""
        key = (path, x.dtype, x.device)
        if key not in self._cast:
            present = [
                (index, residual.factors[path])
                for index, residual in enumerate(self.residuals)
                if path in residual.factors
            ]
            learning = any(f.down.requires_grad or f.up.requires_grad for _, f in present)
            down = torch.cat([factors.down.to(x.device, x.dtype) for _, factors in present])
            up = torch.cat([factors.up.to(x.device, x.dtype) for _, factors in present], dim=1)
            # made where x is: a copy from elsewhere could not be recorded as a CUDA graph
            owner = torch.cat([torch.full((f.down.shape[0],), index, device=x.device) for index, f in present])
            if learning:
                return down, up, owner  # in training the factors change at each step
            self._cast[key] = down, up, owner
        return self._cast[key]


def _of_tiles(gates: torch.Tensor, count: int, target: Target) -> torch.Tensor:
    """The gates of `count` rows. A self-attention may see a picture's tiles as rows of their own, picture by picture
    (the WebUI's Hypertile); nowhere else have rows become more."""
    tiles, rest = divmod(count, len(gates))
    if rest or target.gated or ".attn1." not in target.path:
        raise PersresError(f"The plan is for {len(gates)} rows, but {target.path} sees {count}.")
    return gates.repeat_interleave(tiles, 0)


def _reduce(x: torch.Tensor, down: torch.Tensor, conv: nn.Module) -> torch.Tensor:
    """down x, (b, Σr, h, w), where the convolution's own output is."""
    if all(side == 1 for side in (*conv.kernel_size, *conv.stride)):
        return torch.matmul(down, x.flatten(2)).unflatten(2, x.shape[2:])
    kernel = down.unflatten(1, (-1, *conv.kernel_size))
    return F.conv2d(x, kernel, stride=conv.stride, padding=conv.padding, dilation=conv.dilation)


def _add_conv(z: torch.Tensor, output: torch.Tensor, up: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """z: (b, Σr, h, w), down x; gate: (b, Σr or 1, hw or 1)."""
    z = (z.flatten(2) * gate).to(output.dtype)
    up = up.to(output.dtype).expand(len(output), -1, -1)
    # in place on the module's own fresh output: no second (b, m, h, w) in memory; and as it lies there, for what
    # follows rounds by that
    if output.is_contiguous(memory_format=torch.channels_last) and not output.is_contiguous():
        output.permute(0, 2, 3, 1).flatten(1, 2).baddbmm_(z.transpose(1, 2), up.transpose(1, 2))
        return output
    out = output if output.is_contiguous() else output.contiguous()
    out.view(*out.shape[:2], -1).baddbmm_(up, z)
    return out


def _add_linear(
    x: torch.Tensor, output: torch.Tensor, down: torch.Tensor, up: torch.Tensor, gate: torch.Tensor
) -> torch.Tensor:
    """x: (b, hw or n, m_in), or (b, m_in) as the time embedding's is."""
    if x.ndim == 2:
        return _add_linear(x[:, None], output[:, None], down, up, gate)[:, 0]
    z = torch.matmul(x, down.t()) * gate.transpose(1, 2)
    return output.baddbmm_(z.to(output.dtype), up.t().to(output.dtype).expand(x.shape[0], -1, -1))
