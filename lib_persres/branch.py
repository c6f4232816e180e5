"""Gated low-rank branches on the targets of a UNet, by forward hooks; weights are never touched.

With the factors of those of the K concepts that change target i concatenated, its output is (design §2, equation 3)

    out_i = W_i x + b_i + up_i · (gate ⊙ (down_i x)),   down_i: (Σr, m_in), up_i: (m, Σr),

where the gate repeats G_k, the strength and, where LAG gates the target, the mask of concept k, over its r rows. Where
the target is a convolution, the rows of down are kernels of its size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from .attention import Taps, concept_maps
from .errors import PersresError
from .lag import Plan
from .targets import EVERY
from .unet import Block, Target, find_targets


class HasFactors(Protocol):
    """A residual, as far as the branches need it: target path -> factors with `down` and `up`."""

    factors: Mapping[str, object]


class Branches:
    """The branches of some residuals on one UNet.

    They act only while `plan` is set: with plan None every hook returns at once and the model is the base model.
    Use as a context manager, or call attach and detach; attach detaches first, detach may be called twice.
    """

    def __init__(self, unet: nn.Module, residuals: Sequence[HasFactors]):
        self.residuals = list(residuals)
        changed = {path for residual in self.residuals for path in residual.factors}
        self.targets = [target for target in find_targets(unet, EVERY) if target.path in changed]
        self._plan: Plan | None = None
        self._taps: Taps | None = None
        self._handles: list = []
        self._cast: dict = {}
        self._maps: dict[str, list[torch.Tensor]] = {}
        self._sizes: dict[str, tuple[int, int]] = {}

    @property
    def plan(self) -> Plan | None:
        """How the branches act in the UNet's next calls; None: not at all."""
        return self._plan

    @plan.setter
    def plan(self, plan: Plan | None) -> None:
        if plan is not None and plan.strength.shape[1] != len(self.residuals):
            raise PersresError(
                f"The plan is for {plan.strength.shape[1]} concepts, but {len(self.residuals)} are attached."
            )
        # strength 0 everywhere is the base model, and no arithmetic can show otherwise
        self._plan = None if plan is not None and plan.idle else plan

    def __enter__(self) -> Branches:
        return self.attach()

    def __exit__(self, *_) -> None:
        self.detach()

    def attach(self) -> Branches:
        self.detach()
        masked = [target.block for target in self.targets if target.gated]
        for block in masked:
            self._handles.append(block.module.register_forward_pre_hook(self._enter(block)))
        for target in self.targets:
            self._handles.append(target.module.register_forward_hook(self._add(target)))
        # last, so that the maps are of q and k as they are with what the residuals add
        self._taps = Taps(masked, self._see)
        return self

    def detach(self) -> None:
        """Remove every hook and forget the plan, the masks and the cast factors."""
        if self._taps is not None:
            self._taps.remove()
        while self._handles:
            self._handles.pop().remove()
        self._plan = self._taps = None
        for kept in (self._cast, self._maps, self._sizes):
            kept.clear()

    def _see(self, block: Block, layer: int, q: torch.Tensor, k: torch.Tensor, heads: int) -> None:
        plan = self._plan
        if plan is None or not plan.localized or not plan.makes_maps:
            return
        if plan.indicator.shape[-1] != k.shape[1]:
            raise PersresError(
                f"The plan marks tokens in a context of {plan.indicator.shape[-1]}, but {block.name} sees {k.shape[1]}."
            )
        q, k, indicator = (plan.of_map_rows(tensor) for tensor in (q, k, plan.indicator))
        with torch.no_grad():  # a mask has no gradient
            self._maps.setdefault(block.name, []).append(concept_maps(q, k, indicator, heads))

    def _enter(self, block: Block):
        def hook(module, args):
            if self._plan is not None:
                if len(args[0]) != len(self._plan.strength):
                    raise PersresError(
                        f"The plan is for {len(self._plan.strength)} rows, but the UNet was called with {len(args[0])}."
                    )
                self._maps.pop(block.name, None)  # of a forward that ended in an exception
                self._sizes[block.name] = tuple(args[0].shape[-2:])

        return hook

    def _add(self, target: Target):
        def hook(module, args, output):
            plan = self._plan
            if plan is None:
                return None
            x = args[0]
            gates = self._gates(target.block) if target.gated else plan.strength[..., None]
            if len(x) != len(gates):
                gates = _of_tiles(gates, len(x), target)
            down, up, owner = self._factors(target.path, x)
            gate = gates.to(x.dtype)
            gate = gate if len(self.residuals) == 1 else gate[:, owner]  # (b, Σr or 1, hw or 1)
            if target.is_linear:
                return _add_linear(x, output, down, up, gate)
            return _add_conv(_reduce(x, down, target.module), output, up, gate)

        return hook

    def _gates(self, block: Block) -> torch.Tensor:
        layers = self._maps.pop(block.name, None)
        maps = None
        if layers is not None:
            maps = layers[0] if len(layers) == 1 else torch.stack(layers).mean(0)
        return self._plan.gates(block.name, maps, self._sizes[block.name])

    def _factors(self, path: str, x: torch.Tensor):
        """down (Σr, m_in), up (m, Σr) and each row's concept (Σr,), in x's dtype and on its device."""
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


def _add_conv(z, output, up, gate):
    """z: (b, Σr, h, w), down x; gate: (b, Σr or 1, hw or 1)."""
    z = z.flatten(2) * gate
    # in place on the module's own fresh output: no second (b, m, h, w) in memory
    out = output if output.is_contiguous() else output.contiguous()
    out.view(*out.shape[:2], -1).baddbmm_(up.to(out.dtype).expand(len(out), -1, -1), z.to(out.dtype))
    return out


def _add_linear(x, output, down, up, gate):
    """x: (b, hw or n, m_in), or (b, m_in) as the time embedding's is."""
    if x.ndim == 2:
        return _add_linear(x[:, None], output[:, None], down, up, gate)[:, 0]
    z = torch.matmul(x, down.t()) * gate.transpose(1, 2)
    return output.baddbmm_(z.to(output.dtype), up.t().to(output.dtype).expand(x.shape[0], -1, -1))
