"""reForge and Forge Classic: ldm's classes around a model of ldm_patched."""

from __future__ import annotations

from ldm_patched.modules import model_management
from modules_forge.forge_util import apply_circular_forge

from .hijacked import Hijacked
from .ldm import Ldm
from .managed import Managed


class LdmPatched(Hijacked, Managed, Ldm):
    def load(self, *patchers) -> None:
        model_management.load_models_gpu(list(patchers))

    def tile(self, model, on: bool) -> None:
        apply_circular_forge(model, on)

    def scale(self, model) -> float:
        return model.forge_objects.unet.model.model_config.latent_format.scale_factor
