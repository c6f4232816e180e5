"""A model as ldm and sgm have it, in a WebUI that keeps their classes."""

from __future__ import annotations

import torch
from modules import devices, extra_networks, processing, sd_models, shared
from torch import nn

from ...parameterization import EPS, V, with_zero_terminal_snr
from ...sizes import LATENT
from .choices import Choices
from .evaluations import Evaluations
from .ldm_texts import LdmTexts
from .work import Work

FAMILIES = ("SD1", "SD2", "SDXL", "SD3")


class Ldm(LdmTexts, Evaluations, Work, Choices):
    NotFinite = getattr(devices, "NansException", FloatingPointError)
    """What the WebUI raises where numbers are not finite; Forge Neo raises nothing."""
    fp8_off = "switch FP8 off in Settings"
    """What to do where the weights are kept so."""

    def model(self):
        """The one that is sampled, or to be; where it is not loaded yet, this waits for it."""
        return shared.sd_model

    def loaded_model(self):
        """The one in memory, or None."""
        return sd_models.model_data.sd_model

    def unet(self, model) -> nn.Module:
        return model.model.diffusion_model

    def loaded_unet(self) -> nn.Module | None:
        return getattr(getattr(self.loaded_model(), "model", None), "diffusion_model", None)

    def replaced_unet(self) -> bool:
        """Whether something else than the model's own UNet is called (Settings > SD Unet), which calls no hooks."""
        return False

    def family(self, model) -> str:
        """One of FAMILIES, or what the WebUI calls another; "" for none that it names."""
        return next((family for family in FAMILIES if getattr(model, f"is_{family.lower()}", False)), "")

    def is_refiner(self, model) -> bool:
        """Whether it is SDXL's second model, which goes on with the first one's pictures."""
        return self.family(model) == "SDXL" and len(self.readers(model)) == 1

    def parameterization(self, model) -> str:
        return getattr(model, "parameterization", EPS)

    def alphas(self, model) -> torch.Tensor:
        """ᾱ (T,) that the model was trained with, in fp32: as loaded, or with zero terminal SNR, which of a model of v
        no yaml can say and the settings do."""
        own = getattr(model, "alphas_cumprod_original", model.alphas_cumprod).float()
        zero = self.option("sd_noise_schedule") == "Zero Terminal SNR" or getattr(model, "ztsnr", False)
        return with_zero_terminal_snr(own) if zero and self.parameterization(model) == V else own

    # -- its file

    def checkpoint(self, model):
        """The file of a model (`filename`, `name`, `name_for_extra`, `sha256` or None under --no-hashing), or None."""
        return getattr(model, "sd_checkpoint_info", None)

    def checkpoints(self, sha256: str) -> list[str]:
        """What the WebUI calls those with this hash."""
        return [info.name_for_extra for info in list(sd_models.checkpoints_list.values()) if info.sha256 == sha256]

    def chosen_checkpoint(self):
        """The one that the settings name, which may not be loaded yet; None where there is none."""
        try:
            return sd_models.select_checkpoint()
        except FileNotFoundError:
            return None

    def to_train_on(self):
        """The one that a training of now would take; None where that is not known."""
        return self.checkpoint(self.loaded_model())

    def choose_model(self):
        """Load the chosen checkpoint unless it is; the model."""
        return sd_models.reload_model_weights() or shared.sd_model

    def load_model(self, checkpoint):
        """Load this one, which leaves the choice as it is; the model."""
        with sd_models.SkipWritingToConfig():
            return sd_models.reload_model_weights(info=checkpoint) or shared.sd_model

    # -- its autoencoder

    def autoencoder(self, model) -> nn.Module:
        return model.first_stage_model

    def latent_side(self, model) -> int | None:
        """Of the pictures that it was trained on, where its UNet does not say it; None: it cannot be told."""
        side = getattr(getattr(self.autoencoder(model), "encoder", None), "resolution", None)
        return side and side // LATENT

    def scale(self, model) -> float:
        """By which its latents are multiplied for the UNet."""
        return model.scale_factor

    def encode(self, model, images: torch.Tensor) -> None:
        """Let the autoencoder see images (b,3,H,W) in [-1,1]; what its quant_conv says is what they are."""
        self.autoencoder(model).encode(images)

    def decode(self, model, z: torch.Tensor) -> torch.Tensor:
        """Scaled latents -> images (b,3,8h,8w) in [-1,1]."""
        return model.decode_first_stage(z.to(next(self.autoencoder(model).parameters()).dtype))

    def vae_dtype(self) -> torch.dtype:
        return devices.dtype_vae

    # -- devices

    def device(self) -> torch.device:
        return torch.device(devices.device)

    def autocast(self):
        return devices.autocast()

    def without_autocast(self):
        return devices.without_autocast()

    # -- what an earlier generation left

    def without_networks(self) -> None:
        """Take what LoRA files and the like put into the model out of it; each generation activates its own again."""
        name, settings = "sd_lora", shared.opts.data
        chosen = settings.get(name)
        settings[name] = "None"  # else the LoRA that is added to all prompts breaks it off: there is none
        try:
            extra_networks.activate(self.no_generation(), {})
        finally:
            settings.pop(name) if chosen is None else settings.update({name: chosen})

    def no_generation(self):
        """One that asks for nothing."""
        return processing.StableDiffusionProcessingTxt2Img()
