"""A UNet of diffusers under the names that ldm, sgm and residuals' files have for its modules.

They are the same layers: what ldm numbers through as input_blocks, middle_block and output_blocks, diffusers has as
down_blocks, mid_block and up_blocks, each with its resnets, attentions and a sampler.
"""

from __future__ import annotations

from torch import nn

from ..errors import PersresError

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
"""ldm's names in a residual block, by diffusers'."""


def ldm_view(unet: nn.Module) -> nn.Module:
    """A module that has the UNet's own modules at ldm's paths, in ldm's order; it computes nothing itself.

    Hooks on its modules are on the UNet's. PersresError for a UNet that is not built like SD1's, SD2's or SDXL's.
    """
    view = nn.Module()
    try:
        _put(view, "time_embed.0", unet.time_embedding.linear_1)
        _put(view, "time_embed.2", unet.time_embedding.linear_2)
        if getattr(unet, "add_embedding", None) is not None:
            _put(view, "label_emb.0.0", unet.add_embedding.linear_1)
            _put(view, "label_emb.0.2", unet.add_embedding.linear_2)
        _put(view, "input_blocks.0.0", unet.conv_in)
        number = 1
        for block in unet.down_blocks:
            for layer, resnet in enumerate(block.resnets):
                _put_layer(view, f"input_blocks.{number}", block, layer, resnet)
                number += 1
            for sampler in getattr(block, "downsamplers", None) or ():
                _put(view, f"input_blocks.{number}.0.op", sampler.conv)
                number += 1
        if (middle := unet.mid_block) is not None:
            _put_resnet(view, "middle_block.0", middle.resnets[0])
            _put(view, "middle_block.1", middle.attentions[0])
            _put_resnet(view, "middle_block.2", middle.resnets[1])
        number = 0
        for block in unet.up_blocks:
            for layer, resnet in enumerate(block.resnets):
                behind = _put_layer(view, f"output_blocks.{number}", block, layer, resnet)
                if layer == len(block.resnets) - 1:
                    for sampler in getattr(block, "upsamplers", None) or ():
                        _put(view, f"output_blocks.{number}.{behind}.conv", sampler.conv)
                number += 1
        _put(view, "out.0", unet.conv_norm_out)
        _put(view, "out.2", unet.conv_out)
    except (AttributeError, IndexError, TypeError) as error:
        raise PersresError(
            f"{type(unet).__name__} is not built like the UNet of SD1, SD2 or SDXL, so it cannot carry a residual."
        ) from error
    return view


def _put_layer(view: nn.Module, path: str, block: nn.Module, layer: int, resnet: nn.Module) -> int:
    """A residual block and the transformer block behind it, if it has one; the next free place there."""
    _put_resnet(view, f"{path}.0", resnet)
    attentions = getattr(block, "attentions", None)
    if attentions is None:
        return 1
    _put(view, f"{path}.1", attentions[layer])
    return 2


def _put_resnet(view: nn.Module, path: str, resnet: nn.Module) -> None:
    for name, own in RESNET.items():
        if (module := getattr(resnet, own, None)) is not None:
            _put(view, f"{path}.{name}", module)


def _put(view: nn.Module, path: str, module: nn.Module) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        if not hasattr(view, parent):
            view.add_module(parent, nn.Module())
        view = getattr(view, parent)
    view.add_module(name, module)
