"""Forge: models of its own backend, in which the text encoders look for the users' embeddings themselves."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Sequence

import torch
from backend import memory_management
from backend.text_processing.textual_inversion import Embedding
from modules import devices, prompt_parser, sd_models
from modules_forge import utils
from torch import nn

from ...parameterization import EPS, V
from .ldm import Ldm
from .managed import Managed
from .watched import Watched

KINDS = {"epsilon": EPS, "v_prediction": V}


class Backend(Managed, Ldm):
    fp8_off = 'choose "Automatic" under "Diffusion in Low Bits", or another file'

    def load(self, *patchers) -> None:
        memory_management.load_models_gpu(list(patchers))

    def tile(self, model, on: bool) -> None:
        utils.apply_circular_forge(model, on)

    # -- the model

    def model(self):
        return self.loaded_model() or self.on_thread(self.choose_model)  # whoever asks: its loading has no lock

    def loaded_model(self):
        model = sd_models.model_data.sd_model
        return model if hasattr(model, "forge_objects") else None  # until the first picture it has a pretended one

    def unet(self, model) -> nn.Module:
        return model.forge_objects.unet.model.diffusion_model

    def loaded_unet(self) -> nn.Module | None:
        model = self.loaded_model()
        return None if model is None else self.unet(model)

    def family(self, model) -> str:
        return super().family(model) or type(model).__name__  # Flux, Chroma

    def is_refiner(self, model) -> bool:
        return type(model).__name__ == "StableDiffusionXLRefiner"

    def parameterization(self, model) -> str:
        kind = model.forge_objects.unet.model.predictor.prediction_type
        return KINDS.get(kind, kind)

    def alphas(self, model) -> torch.Tensor:
        return 1 / (1 + model.forge_objects.unet.model.predictor.sigmas.float().clone() ** 2)

    def to_train_on(self):
        return self.chosen_checkpoint()  # which is loaded with the next picture

    def choose_model(self):
        return sd_models.forge_model_reload()[0]

    def load_model(self, checkpoint):
        data = sd_models.model_data
        chosen = data.forge_loading_parameters
        try:
            data.forge_loading_parameters = {**chosen, "checkpoint_info": checkpoint}
            return sd_models.forge_model_reload()[0]
        finally:
            data.forge_loading_parameters = chosen

    def scale(self, model) -> float:
        autoencoder = self.autoencoder(model)
        # Forge Neo's has a whole format
        kept = getattr(autoencoder, "latent_format", None)
        return autoencoder.scaling_factor if kept is None else kept.scale_factor

    # -- texts

    def readers(self, model) -> dict:
        one = getattr(model, "text_processing_engine", None)
        if one is not None:
            return {"": one}
        names = {"clip_l": "text_processing_engine_l", "clip_g": "text_processing_engine_g"}
        return {name: getattr(model, own) for name, own in names.items() if hasattr(model, own)}

    def encoders(self, model) -> dict[str, nn.Module]:
        return {name: reader.text_encoder for name, reader in self.readers(model).items()}

    def on_reading(self, reader, before: Callable, after: Callable) -> list:
        return [Watched(reader, before, after)]

    def text_encoder(self, model):
        return next(iter(self.readers(model).values()), None)

    def token_tables(self, model) -> dict[str, nn.Embedding]:
        return {
            name: reader.text_encoder.transformer.text_model.embeddings.token_embedding.wrapped
            for name, reader in self.readers(model).items()
        }

    def read(self, model, texts: Sequence[str] | prompt_parser.SdConditioning):
        # as a generation does before it reads any: a model that was loaded since the last one has it not
        model.set_clip_skip(int(self.option("CLIP_stop_at_last_layers", 1)))
        if not torch.is_inference_mode_enabled():  # in a training, which its reading would move it in
            self._bring(model.forge_objects.clip.patcher, model.forge_objects.clip.cond_stage_model)
        # its own calls are under torch.inference_mode, from which no graph comes
        return inspect.unwrap(type(model).get_learned_conditioning)(model, texts)

    def embeddings(self) -> list[dict[int, list]]:
        model = self.loaded_model()
        return [reader.embeddings.ids_lookup for reader in self.readers(model).values()] if model else []

    def embedding(self, name: str, vectors: dict[str, torch.Tensor]) -> Embedding:
        embedding = Embedding(vectors.get("", vectors), name)
        embedding.vectors, embedding.shape = next(iter(vectors.values())).shape
        return embedding

    def hide_embeddings(self, names: Container[str]) -> None:
        params = getattr(self.loaded_model(), "extra_generation_params", {})
        left = [name for name in str(params.pop("TI", "")).split(", ") if name and name not in names]
        params.update({"TI": ", ".join(left)} if left else {})

    def comments(self) -> list[str]:
        return getattr(self.loaded_model(), "comments", [])

    def placed(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors.detach().to(devices.device, torch.float32)
