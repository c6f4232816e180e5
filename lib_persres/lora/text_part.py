"""The part of a LoRA file for the text encoders: branches on their layers, while they read the texts of one image.

As on the UNet no weight is touched. OpenCLIP's attention has no modules for queries, keys and values, so what it gives
is computed once more with their sum:

    out = W x + b + s · up (down x)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.utils.hooks import RemovableHandle

from ..residual import Factors

TextFactors = Mapping[str, Mapping[str, Factors]]
"""Encoder, by the names of `residual.ENCODERS` -> Hugging Face's path of a layer -> factors."""

_LAYER = re.compile(r"(?:^|\.)(?:layers|resblocks)\.(\d+)\.(.+)$")
_OPEN_CLIP = {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
_SIDES = ("q_proj", "k_proj", "v_proj")
"""Of OpenCLIP's in_proj_weight, in their order."""


class TextPart:
    """Files at work on text encoders. They act on all that the encoders read while `strengths` is set: one for each of
    the files, or None. `attach` and `detach` as of `branch.Branches`.

    encoders: what reads texts, by name; in each CLIP as transformers has it, or OpenCLIP's. unknown: the layers of
    files that no encoder has, or has in another size.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], files: Sequence[TextFactors]):
        self.strengths: Sequence[float] | None = None
        self.unknown = [0] * len(files)
        self._linear: list[tuple[nn.Module, list[tuple[int, Factors]]]] = []
        self._attention: list[tuple[nn.MultiheadAttention, dict[str, list[tuple[int, Factors]]]]] = []
        self._handles: list[RemovableHandle] = []
        for name, encoder in encoders.items():
            layers = _layers_of(encoder)
            changed: dict[str, list[tuple[int, Factors]]] = {}
            for number, file in enumerate(files):
                for path, factors in file.get(name, {}).items():
                    key = _key(path)
                    if key in layers and _fits(layers[key], key, factors):
                        changed.setdefault(key, []).append((number, factors))
                    else:
                        self.unknown[number] += 1
            joint: dict[nn.MultiheadAttention, dict[str, list[tuple[int, Factors]]]] = {}
            for key, own in changed.items():
                module = layers[key]
                if isinstance(module, nn.MultiheadAttention):
                    joint.setdefault(module, {})[key.rpartition(".")[2]] = own
                else:
                    self._linear.append((module, own))
            self._attention += joint.items()
        for number, file in enumerate(files):
            self.unknown[number] += sum(len(paths) for name, paths in file.items() if name not in encoders)

    def __enter__(self) -> TextPart:
        return self.attach()

    def __exit__(self, *_: object) -> None:
        self.detach()

    def attach(self) -> TextPart:
        self.detach()
        for module, own in self._linear:
            self._handles.append(module.register_forward_hook(self._add(own)))
        for attention, sides in self._attention:
            self._handles.append(attention.register_forward_hook(self._again(sides), with_kwargs=True))
        return self

    def detach(self) -> None:
        self.strengths = None
        while self._handles:
            self._handles.pop().remove()

    def _acting(self, own: Sequence[tuple[int, Factors]]) -> list[tuple[float, Factors]]:
        strengths = self.strengths
        return [] if strengths is None else [(strengths[n], factors) for n, factors in own if strengths[n] != 0]

    def _add(self, own: list[tuple[int, Factors]]) -> Callable[..., torch.Tensor | None]:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
            acting = self._acting(own)
            for strength, factors in acting:
                down, up = (side.to(args[0]) for side in (factors.down, factors.up))
                output = output + strength * F.linear(F.linear(args[0], down), up).to(output.dtype)
            return output if acting else None

        return hook

    def _again(self, sides: dict[str, list[tuple[int, Factors]]]) -> Callable[..., Any]:
        inside = False

        def hook(module: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
            nonlocal inside
            if inside or not any(map(self._acting, sides.values())):
                return None
            whole, out = module.in_proj_weight, module.out_proj.weight
            rows = [
                part + self._delta(sides.get(side, ()), part) for side, part in zip(_SIDES, whole.chunk(3), strict=True)
            ]
            changed = {
                "in_proj_weight": torch.cat(rows),
                "out_proj.weight": out + self._delta(sides.get("out_proj", ()), out),
            }
            inside = True
            try:
                return functional_call(module, changed, args, dict(kwargs))
            finally:
                inside = False

        return hook

    def _delta(self, own: Sequence[tuple[int, Factors]], weight: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(weight)
        for strength, factors in self._acting(own):
            up, down = (side.to(weight.device) for side in (factors.up, factors.down))
            total += (strength * up @ down).to(weight.dtype)
        return total


def _key(path: str) -> str:
    """A layer by its number and Hugging Face's name in it."""
    found = _LAYER.search(path)
    return f"{found[1]}.{found[2]}" if found else path


def _layers_of(encoder: nn.Module) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {}
    for name, module in encoder.named_modules():
        layer = _LAYER.search(name)
        if layer is None:
            continue
        number, inside = layer[1], layer[2]
        if isinstance(module, nn.MultiheadAttention):
            if module.in_proj_weight is not None:
                found |= {f"{number}.self_attn.{side}": module for side in (*_SIDES, "out_proj")}
        elif hasattr(module, "in_features"):
            found.setdefault(f"{number}.{_OPEN_CLIP.get(inside, inside)}", module)
    return found


def _fits(module: nn.Module, key: str, factors: Factors) -> bool:
    sizes = factors.down.shape[1], factors.up.shape[0]
    if isinstance(module, nn.MultiheadAttention):
        return sizes == (module.embed_dim, module.embed_dim)
    return sizes == (module.in_features, module.out_features)
