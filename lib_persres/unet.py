"""What a UNet is to us: its transformer blocks, and in them the modules that a residual may change.

Blocks are found by structure, not by class, so that ldm, sgm and their forks are served alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from .errors import PersresError
from .targets import EMBEDDING, EVERY, LAYERED, parts_of

TEXTS = ("attn2.to_k", "attn2.to_v")
"""The ends of the paths of what sees a text alone."""


@dataclass(frozen=True)
class Block:
    """A spatial transformer i of the UNet.

    name: its path in the UNet. proj_out: 1×1 Conv2d or Linear, m_in -> m_out. attentions, self_attentions: its
    cross-attentions (`attn2`) and self-attentions (`attn1`), one for each layer of depth.
    """

    name: str
    module: nn.Module
    proj_out: nn.Module
    attentions: tuple[nn.Module, ...]
    self_attentions: tuple[nn.Module, ...] = ()

    @property
    def width(self) -> int:
        """m_i, the width of proj_out's output."""
        return _widths(self.proj_out)[1]


@dataclass(frozen=True)
class Target:
    """A module that a residual may change, a Linear or Conv2d. path: its path in the UNet, its name in files.

    block: the transformer block that it is in; None outside of any.
    """

    path: str
    module: nn.Module
    block: Block | None

    @property
    def is_linear(self) -> bool:
        return hasattr(self.module, "in_features")

    @property
    def widths(self) -> tuple[int, int]:
        """The sides of its weight as a matrix: m_in, of a convolution times the size of its kernel, and m_out."""
        return _widths(self.module)

    @property
    def gated(self) -> bool:
        """Whether LAG confines what a residual adds here under any mask."""
        return self.gate is not None

    @property
    def is_of_text(self) -> bool:
        """Whether it sees the text alone: the keys or values of a cross-attention, see `keys_values`."""
        return self.path.endswith(TEXTS)

    @property
    def has_pixels(self) -> bool:
        """Whether what it gives has a place in the picture, so that an early mask confines it. Keys and values of the
        cross-attentions are the text's, and what is made of the time belongs to no place."""
        if not self.is_linear:
            return True
        return self.block is not None and not self.is_of_text

    @property
    def gate(self) -> Block | None:
        """The block whose own mask confines what a residual adds here; None where there is none.

        Only proj_out has pixels and acts when the maps of its block are whole. The others with pixels are confined by
        masks that are there before, see `mask.Mask`; what has none acts everywhere, at the strength of its row.
        """
        return self.block if self.block is not None and self.module is self.block.proj_out else None


def find_blocks(unet: nn.Module) -> list[Block]:
    """The UNet's transformer blocks in the order of their modules; raises PersresError where there is none."""
    blocks = []
    for name, module in unet.named_modules():
        if all(hasattr(module, part) for part in ("proj_in", "transformer_blocks", "proj_out")):
            cross, own = (
                tuple(a for layer in module.transformer_blocks if (a := getattr(layer, which, None)) is not None)
                for which in ("attn2", "attn1")
            )
            blocks.append(Block(name, module, module.proj_out, cross, own))
    if not blocks:
        raise PersresError(
            f"{type(unet).__name__} has no transformer blocks with a proj_out, so it cannot carry a residual: "
            "use an SD1, SD2 or SDXL model."
        )
    return blocks


def find_targets(unet: nn.Module, rule: str) -> list[Target]:
    """The modules that a rule picks, block by block in the order in which they act. None are the embedding's."""
    parts = parts_of(rule)
    blocks = find_blocks(unet)
    targets = _all_targets(unet, blocks) if EVERY in parts else []
    for block in blocks if EVERY not in parts else ():
        layers = range(len(block.module.transformer_blocks))
        paths = [
            *(["proj_in"] if "proj_in" in parts else []),
            *(
                f"transformer_blocks.{layer}.{attention}.{name}"
                for layer in layers
                for part, (attention, names) in LAYERED.items()
                if part in parts
                for name in names
            ),
            *(["proj_out"] if "proj_out" in parts else []),
        ]
        modules = dict(block.module.named_modules())
        targets += [Target(f"{block.name}.{path}", modules[path], block) for path in paths if path in modules]
    if not targets and parts != [EMBEDDING]:
        raise PersresError(f"{type(unet).__name__} has none of the targets {rule}: use an SD1, SD2 or SDXL model.")
    return targets


def target_widths(unet: nn.Module, rule: str) -> dict[str, tuple[int, int]]:
    """The sides of the targets that a rule picks, by their paths."""
    return {target.path: target.widths for target in find_targets(unet, rule)}


def _all_targets(unet: nn.Module, blocks: list[Block]) -> list[Target]:
    owners = {module: block for block in blocks for module in block.module.modules()}
    return [
        Target(name, module, owners.get(module))
        for name, module in unet.named_modules()
        if hasattr(module, "in_features") or (hasattr(module, "in_channels") and hasattr(module, "kernel_size"))
    ]


def _widths(module: nn.Module) -> tuple[int, int]:
    # attributes and not the weight's shape: under fp8 or medvram the weight is not what it seems
    if hasattr(module, "in_features"):
        return module.in_features, module.out_features
    return module.in_channels // module.groups * math.prod(module.kernel_size), module.out_channels
