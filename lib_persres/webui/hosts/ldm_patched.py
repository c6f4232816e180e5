"""reForge and Forge Classic: ldm's classes around a model of ldm_patched."""

from __future__ import annotations

from ldm_patched.modules import model_management

from .ldm import Ldm
from .managed import Managed


class LdmPatched(Managed, Ldm):
    def load(self, *patchers) -> None:
        model_management.load_models_gpu(list(patchers))

    def scale(self, model) -> float:
        return model.forge_objects.unet.model.model_config.latent_format.scale_factor
