"""What a UNet is to us: its transformer blocks, each with its proj_out and its cross-attentions.

Blocks are found by structure, not by class, so that ldm, sgm and their forks are served alike.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from .errors import PersresError


@dataclass(frozen=True)
class Block:
    """A spatial transformer i of the UNet.

    name: its path in the UNet. proj_out: 1×1 Conv2d or Linear, m_in -> m_out. attentions: its cross-attentions
    (`attn2`), one for each layer of depth.
    """

    name: str
    module: nn.Module
    proj_out: nn.Module
    attentions: tuple[nn.Module, ...]

    @property
    def target(self) -> str:
        """The path of proj_out, under which a residual's factors are kept."""
        return f"{self.name}.proj_out"

    @property
    def is_linear(self) -> bool:
        return hasattr(self.proj_out, "in_features")

    @property
    def width_in(self) -> int:
        # attributes and not the weight's shape: under fp8 or medvram the weight is not what it seems
        return self.proj_out.in_features if self.is_linear else self.proj_out.in_channels

    @property
    def width(self) -> int:
        """m_i, the width of proj_out's output."""
        return self.proj_out.out_features if self.is_linear else self.proj_out.out_channels


def find_blocks(unet: nn.Module) -> list[Block]:
    """The UNet's transformer blocks in the order of their modules; raises PersresError where there is none."""
    blocks = []
    for name, module in unet.named_modules():
        if all(hasattr(module, part) for part in ("proj_in", "transformer_blocks", "proj_out")):
            attentions = tuple(
                layer.attn2 for layer in module.transformer_blocks if getattr(layer, "attn2", None) is not None
            )
            blocks.append(Block(name, module, module.proj_out, attentions))
    if not blocks:
        raise PersresError(
            f"{type(unet).__name__} has no transformer blocks with a proj_out, so it cannot carry a residual: "
            "use an SD1, SD2 or SDXL model."
        )
    return blocks
