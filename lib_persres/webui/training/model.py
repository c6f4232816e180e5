"""The WebUI's model as a training wants it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from ...conditioning import Conditioning
from ...errors import PersresError
from ...parameterization import KINDS
from ...residual import file_hash
from ...sizes import default_resolution, params_of
from ..fit import FAMILIES
from ..host import HOST

SUPPORTED = "load a plain SD1, SD2 or SDXL model to train on"


class LentModel:
    """`training.host.Host` of the loaded model, and the decoder for previews.

    The text goes the way that a generation's prompt goes, so that a residual learns under the tokens and vectors
    under which it will be drawn. What SDXL does not need for a step, its text encoders and autoencoder, comes to the
    card only for its work; `rest` puts everything back.
    """

    def __init__(self, model):
        refuse_unsupported(model)
        self.model = model
        self.unet = HOST.unet(model)
        self.device = HOST.device()
        self.stays = not HOST.moves(model)  # for each picture
        self.family, self.parameterization = HOST.family(model), HOST.parameterization(model)
        self.side = side_of(model)
        self.alphas_cumprod = HOST.alphas(model).to(self.device)
        info = HOST.checkpoint(model)
        self.path = Path(info.filename)
        self.hash = info.sha256 or file_hash(info.filename)  # None under --no-hashing
        self._visits = self.family == "SDXL" and self.stays and self.device.type != "cpu" and not HOST.places_parts

    @contextlib.contextmanager
    def rest(self) -> Iterator[None]:
        """Around a training: at its end all parts are where the WebUI has them."""
        parts = (HOST.text_encoder(self.model), HOST.autoencoder(self.model))
        try:
            yield
        finally:
            if self._visits:
                for part in parts:
                    part.to(self.device)

    @contextlib.contextmanager
    def _visit(self, part: nn.Module, stays: bool = False) -> Iterator[None]:
        if self._visits:
            part.to(self.device)
        try:
            yield
        finally:
            if self._visits and not stays:
                part.to("cpu")
                torch.cuda.empty_cache()

    @torch.no_grad()
    def encode_images(self, images: torch.Tensor, batch: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (b,3,H,W) in [-1,1] -> mean and standard deviation of the scaled latents, in fp32."""
        means, stds, scale = [], [], HOST.scale(self.model)
        with HOST.without_autocast(), self._visit(HOST.autoencoder(self.model)):
            for part in images.split(batch):
                mean, std = self._encode(part, HOST.vae_dtype())
                if not mean.isfinite().all() and HOST.vae_dtype() != torch.float32:
                    mean, std = self._encode_in_fp32(part)
                means.append(mean.float() * scale)
                stds.append(std.float() * scale)
        return torch.cat(means), torch.cat(stds)

    def _encode(self, images: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation, whatever an autoencoder gives: ldm's a distribution, sgm's something drawn."""
        vae, moments = HOST.autoencoder(self.model), []
        handle = vae.quant_conv.register_forward_hook(lambda module, args, output: moments.append(output))
        try:
            HOST.encode(self.model, images.to(self.device, dtype))
        finally:
            handle.remove()
        if len(moments) != 1:
            raise PersresError("There was no memory to look at a photo as a whole: lower the resolution.")
        mean, logvar = moments[0].chunk(2, dim=1)
        return mean, torch.exp(0.5 * logvar.clamp(-30.0, 20.0))

    def _encode_in_fp32(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Some autoencoders overflow in fp16. To fp32 and back is exact."""
        vae = HOST.autoencoder(self.model)
        try:
            vae.to(torch.float32)
            return self._encode(images, torch.float32)
        finally:
            vae.to(HOST.vae_dtype())

    @torch.no_grad()
    def decode_latents(self, z: torch.Tensor) -> torch.Tensor:
        """Scaled latents -> images (b,3,8h,8w) in [0,1]."""
        with HOST.without_autocast(), self._visit(HOST.autoencoder(self.model)):
            images = [HOST.decode(self.model, part.to(self.device)).float() for part in z.split(1)]
        return ((torch.cat(images) + 1) / 2).clamp(0, 1)

    def encode_prompts(
        self, prompts: list[str], learning: bool = False, side: int | None = None
    ) -> tuple[Conditioning, torch.Tensor]:
        """Prompts -> what the UNet is told of them, and the ids (b,n) that the contexts come from, of all chunks in a
        row."""
        encoder = HOST.text_encoder(self.model)
        with self._visit(encoder, stays=learning):  # for the next step, and for the way back
            conditioning = HOST.conditioning(self.model, prompts, side or self.side, learning)
        chunks = [[tokens for tokens, _ in HOST.chunks(encoder, prompt)] for prompt in prompts]
        most = max(len(line) for line in chunks)
        empty = HOST.empty_chunk(encoder)
        ids: list[list[int]] = [sum(line + [empty] * (most - len(line)), []) for line in chunks]
        return conditioning, torch.tensor(ids)

    @property
    def token_tables(self) -> dict[str, nn.Embedding]:
        return HOST.token_tables(self.model)

    def encode_text(self, text: str) -> list[int]:
        return HOST.tokens(HOST.text_encoder(self.model), text)

    # -- each call of the UNet

    def before_unet(self, module, args, kwargs):
        """A pre-hook: what the WebUI does on its way to the UNet, which a trainer's call does not take."""
        HOST.bring_unet(self.model)
        dtype = next(module.parameters()).dtype  # the UNet's, but for a training's own precision
        args = tuple(value.to(dtype) for value in args)
        told = {name: kwargs[name].to(dtype) for name in ("context", "y") if kwargs.get(name) is not None}
        return args, {**kwargs, **told}


def side_of(model) -> int:
    """Of the pictures that a model was trained on."""
    params = params_of(HOST.unet(model))
    if params["image_size"] is None:  # sgm's UNet has no such number
        params["image_size"] = HOST.latent_side(model)
    return default_resolution(params, HOST.family(model), HOST.parameterization(model))


def refuse_unsupported(model) -> None:
    """PersresError for a model that cannot be trained on here."""
    if (family := HOST.family(model)) not in FAMILIES:
        kind = family or "of no family that is known here"
        raise PersresError(f"The loaded checkpoint is {kind}, which cannot be trained on here: {SUPPORTED}.")
    if HOST.is_refiner(model):
        raise PersresError(f"The loaded checkpoint is SDXL's refiner, which draws nothing by itself: {SUPPORTED}.")
    channels = HOST.unet(model).in_channels
    if channels != 4:
        raise PersresError(
            f"The loaded checkpoint is for inpainting, depth or editing ({channels} channels in): {SUPPORTED}."
        )
    if family != "SDXL" and getattr(HOST.unet(model), "num_classes", None) is not None:
        raise PersresError(f"The loaded checkpoint is for variations of a picture (unCLIP): {SUPPORTED}.")
    if (kind := HOST.parameterization(model)) not in KINDS:
        raise PersresError(f"The loaded checkpoint predicts {kind}, neither the noise nor v: {SUPPORTED}.")
    if HOST.keeps_fp8(model):
        raise PersresError(f"The weights are kept in FP8, which cannot be trained through: {HOST.fp8_off}.")
