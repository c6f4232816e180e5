"""What the WebUIs have in common whose models are Forge's: objects that patch and place a model's parts, a thread that
works with them, and weights made under torch.inference_mode."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from modules import devices
from torch import nn

from ...errors import PersresError
from ...sizes import LATENT
from ...standalone import architecture
from .inference import plain_again, plain_tensors
from .threaded import Threaded

NO_ROOM = (
    "Training needs the whole UNet on the card at once, and it has no room there: give weights more of the card in the "
    "host's own settings (GPU Weights), or start it without flags that keep them off it."
)


class Managed(Threaded):
    """load: of the host's memory management, brings these patchers' modules to the card."""

    places_parts = True

    checkpoint: Callable[[Any], Any]
    family: Callable[[Any], str]
    unet: Callable[[Any], nn.Module]
    without_networks: Callable[[], None]

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
        """A picture that was decoded may have sent it away, or a part of it."""
        unet = self.unet(model)
        if self._is_away(unet):
            self._bring(model.forge_objects.unet, unet)
            if self._is_away(unet):
                raise PersresError(NO_ROOM)

    def _is_away(self, unet: nn.Module) -> bool:
        there = torch.device(devices.device).type
        return any(weight.device.type != there for weight in unet.parameters())

    def _bring(self, patcher, module: nn.Module) -> None:
        """In a training. The host moves in inference mode what it made there, these and what has to go for them:
        outside of it tensors would come of it that are of neither kind, and raise in whatever reads them."""
        with torch.inference_mode():
            self.load(patcher)
        plain_again([module])

    @contextlib.contextmanager
    def placement(self, model) -> Iterator[None]:
        try:
            yield
        finally:
            devices.torch_gc()

    @contextlib.contextmanager
    def plain(self, model) -> Iterator[None]:
        self.without_networks()
        # as the host itself begins a generation: what LoRA files and other extensions patched goes with these
        model.forge_objects = model.forge_objects_after_applying_lora.shallow_copy()
        objects = model.forge_objects
        with torch.inference_mode():  # as in `_bring`
            self.load(objects.unet, objects.clip.patcher)
        unet = self.unet(model)
        if self._is_away(unet):
            raise PersresError(NO_ROOM)
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
