"""What the WebUIs have in common whose models are Forge's: objects that patch and place a model's parts, a thread that
works with them, and weights made under torch.inference_mode."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from modules import devices, extra_networks
from torch import nn

from ...errors import PersresError
from ...sizes import LATENT
from ...standalone import architecture
from .inference import plain_tensors
from .threaded import Threaded


class Managed(Threaded):
    """load: of the host's memory management, brings these patchers' modules to the card."""

    places_parts = True

    checkpoint: Callable[[Any], Any]
    family: Callable[[Any], str]
    unet: Callable[[Any], nn.Module]
    no_generation: Callable[[], Any]

    def load(self, *patchers) -> None:
        raise NotImplementedError

    def tile(self, model, on: bool) -> None:
        """Whether its pictures' edges meet."""

    def keeps_fp8(self, model) -> bool:
        return any(weight.dtype.itemsize == 1 for weight in self.unet(model).parameters())

    def moves(self, model) -> bool:
        return False

    def refuse_to_train(self) -> str | None:
        return None

    def bring_unet(self, model) -> None:
        """A picture that was decoded may have sent it away; whose device it has, that is there."""
        if next(self.unet(model).parameters()).device.type != torch.device(devices.device).type:
            self.load(model.forge_objects.unet)

    @contextlib.contextmanager
    def placement(self, model) -> Iterator[None]:
        try:
            yield
        finally:
            devices.torch_gc()

    @contextlib.contextmanager
    def plain(self, model) -> Iterator[None]:
        extra_networks.activate(self.no_generation(), {})
        # as the host itself begins a generation: what LoRA files and other extensions patched goes with these
        model.forge_objects = model.forge_objects_after_applying_lora.shallow_copy()
        objects = model.forge_objects
        with torch.inference_mode():
            # as the host moves them: else theirs, made in that mode, are neither kind of tensor on the card, and raise
            self.load(objects.unet, objects.clip.patcher)
        unet = self.unet(model)
        if any(weight.device.type != torch.device(devices.device).type for weight in unet.parameters()):
            raise PersresError("Training needs the whole UNet on the card at once, and it has no room there.")
        tiled = model.tiling_enabled
        try:
            self.tile(model, False)
            with plain_tensors([unet, objects.clip.cond_stage_model]):
                yield
        finally:
            self.tile(model, tiled)

    # -- the autoencoder, which the host places and gives its type

    def autoencoder(self, model) -> nn.Module:
        return model.forge_objects.vae.first_stage_model

    def latent_side(self, model) -> int | None:
        """As the yaml beside its file has it, since the host's own parts do not keep it."""
        try:
            described = architecture.read(self.checkpoint(model).filename, self.family(model))
        except (AttributeError, PersresError):
            return None
        return described.unet.get("image_size") or described.ddconfig["resolution"] // LATENT

    def encode(self, model, images: torch.Tensor) -> None:
        model.encode_first_stage(images)

    def decode(self, model, z: torch.Tensor) -> torch.Tensor:
        return model.decode_first_stage(z)

    def vae_dtype(self) -> torch.dtype:
        return torch.float32
