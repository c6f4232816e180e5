"""The WebUI's model as a training wants it."""

from __future__ import annotations

import torch

from ...errors import PersresError
from ...residual import file_hash
from ..host import HOST

SUPPORTED = "load a plain SD1.x model to train on"


class LentModel:
    """`training.host.Host` of an SD1 model, and the decoder for previews.

    The text goes the way that a generation's prompt goes, so that a residual learns under the tokens and vectors
    under which it will be drawn.
    """

    family = "SD1"

    def __init__(self, model):
        refuse_unsupported(model)
        self.model = model
        self.unet = HOST.unet(model)
        self.device = HOST.device()
        self.stays = not HOST.moves(model)  # for each picture
        # as loaded: what a generation's settings make of it is not what the model was trained with
        self.alphas_cumprod = getattr(model, "alphas_cumprod_original", model.alphas_cumprod).float().to(self.device)
        info = HOST.checkpoint(model)
        self.hash = info.sha256 or file_hash(info.filename)  # None under --no-hashing

    @torch.no_grad()
    def encode_images(self, images: torch.Tensor, batch: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (b,3,H,W) in [-1,1] -> mean and standard deviation of the scaled latents, in fp32."""
        means, stds = [], []
        with HOST.without_autocast():
            for part in images.split(batch):
                posterior = self._encode(part, HOST.vae_dtype())
                if not posterior.mean.isfinite().all() and HOST.vae_dtype() != torch.float32:
                    posterior = self._encode_in_fp32(part)
                means.append(posterior.mean.float() * self.model.scale_factor)
                stds.append(posterior.std.float() * self.model.scale_factor)
        return torch.cat(means), torch.cat(stds)

    def _encode(self, images: torch.Tensor, dtype: torch.dtype):
        return self.model.first_stage_model.encode(images.to(self.device, dtype))

    def _encode_in_fp32(self, images: torch.Tensor):
        """Some autoencoders overflow in fp16. To fp32 and back is exact."""
        vae = self.model.first_stage_model
        try:
            vae.to(torch.float32)
            return self._encode(images, torch.float32)
        finally:
            vae.to(HOST.vae_dtype())

    @torch.no_grad()
    def decode_latents(self, z: torch.Tensor) -> torch.Tensor:
        """Scaled latents -> images (b,3,8h,8w) in [0,1]."""
        with HOST.without_autocast():
            dtype = self.model.first_stage_model.dtype
            images = [self.model.decode_first_stage(part.to(self.device, dtype)).float() for part in z.split(1)]
        return ((torch.cat(images) + 1) / 2).clamp(0, 1)

    def encode_prompts(self, prompts: list[str], learning: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts -> contexts (b,n,d), and the ids (b,n) that they come from, of all chunks in a row."""
        encoder = HOST.text_encoder(self.model)
        with torch.set_grad_enabled(learning):
            contexts = self.model.get_learned_conditioning(prompts)
        chunks = [[tokens for tokens, _ in HOST.chunks(encoder, prompt)] for prompt in prompts]
        most = max(len(line) for line in chunks)
        empty = HOST.empty_chunk(encoder)
        ids = [sum(line + [empty] * (most - len(line)), []) for line in chunks]
        return contexts, torch.tensor(ids)

    @property
    def token_embedding(self) -> torch.nn.Embedding:
        return HOST.token_embedding(HOST.text_encoder(self.model))

    def encode_text(self, text: str) -> list[int]:
        return HOST.tokens(HOST.text_encoder(self.model), text)

    # -- each call of the UNet

    def before_unet(self, module, args, kwargs):
        """A pre-hook: what the WebUI does on its way to the UNet, which a trainer's call does not take."""
        HOST.bring_unet(self.model)
        dtype = next(module.parameters()).dtype  # the UNet's, but for a training's own precision
        args = tuple(value.to(dtype) for value in args)
        if kwargs.get("context") is not None:
            kwargs = {**kwargs, "context": kwargs["context"].to(dtype)}
        return args, kwargs


def refuse_unsupported(model) -> None:
    """PersresError for a model that cannot be trained on here."""
    if (family := HOST.family(model)) != "SD1":
        kind = family or "no SD1"
        raise PersresError(f"The loaded checkpoint is {kind}, which cannot be trained on here yet: {SUPPORTED}.")
    channels = HOST.unet(model).in_channels
    if channels != 4:
        raise PersresError(f"The loaded checkpoint is for inpainting or editing ({channels} channels in): {SUPPORTED}.")
    if getattr(model, "parameterization", "eps") != "eps":
        raise PersresError(f"The loaded checkpoint predicts {model.parameterization}, not the noise: {SUPPORTED}.")
    if HOST.keeps_fp8():
        raise PersresError("The weights are kept in FP8, which cannot be trained through: switch FP8 off in Settings.")
