"""AUTOMATIC1111's WebUI 1.10."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from modules import devices, lowvram, sd_unet

from .hijacked import Hijacked
from .ldm import Ldm


class A1111(Hijacked, Ldm):
    """It keeps nothing: whatever changes is the WebUI's own."""

    places_parts = False
    """Whether it brings each part of a model to the card itself when it calls it."""

    def keeps_fp8(self, model) -> bool:
        return devices.fp8

    def moves(self, model) -> bool:
        """Whether its parts come to the card and go between a training's steps (--medvram, --lowvram)."""
        return model.lowvram

    def refuse_to_train(self) -> str | None:
        """A sentence where its way with memory leaves no training."""
        if self.flag("lowvram") and self.device().type != "cpu":
            return "Training needs the whole UNet on the card at once, which --lowvram forbids: start with --medvram."
        return None

    def bring_unet(self, model) -> None:
        """Under --medvram: have it on the card, and let the WebUI's own bookkeeping know."""
        module = model.model
        if model.lowvram and lowvram.module_in_gpu is not module:
            lowvram.send_everything_to_cpu()
            module.to(devices.device)
            lowvram.module_in_gpu = module

    @contextlib.contextmanager
    def placement(self, model) -> Iterator[None]:
        """Under --medvram modules come and go; at its end none is on the card, which the WebUI takes as its start."""
        try:
            yield
        finally:
            if self.moves(model):
                lowvram.send_everything_to_cpu()
            devices.torch_gc()

    @contextlib.contextmanager
    def plain(self, model) -> Iterator[None]:
        """The model itself: without what an earlier generation or a setting left on it, and with weights that autograd
        may keep."""
        hijack = self.hijack()
        comments, params, circular = hijack.comments, hijack.extra_generation_params, hijack.circular_enabled
        unet = sd_unet.current_unet_option
        found = (getattr(module, "__webui_hypertile_params", None) for module in model.modules())
        tiles = [tile for tile in found if tile is not None]
        enabled = [tile.enabled for tile in tiles]
        try:
            hijack.comments, hijack.extra_generation_params = [], {}
            hijack.apply_circular(False)
            sd_unet.apply_unet("None")
            for tile in tiles:
                tile.enabled = False
            with devices.autocast():
                self.without_networks()
            yield
        finally:
            for tile, value in zip(tiles, enabled):
                tile.enabled = value
            hijack.apply_circular(circular)
            hijack.comments, hijack.extra_generation_params = comments, params
            if unet is not None:
                sd_unet.apply_unet(unet.label)
