"""reForge and Forge Classic: ldm's classes around a model of ldm_patched."""

from __future__ import annotations

from ldm_patched.modules import model_management
from modules_forge.forge_clip import CLIP_SD_21_H
from modules_forge.forge_util import apply_circular_forge

from ...parameterization import EPS, V
from .hijacked import Hijacked
from .ldm import Ldm
from .managed import Managed

KINDS: dict[tuple[str, ...], str] = {
    ("ModelSamplingDiscrete", "EPS"): EPS,
    ("ModelSamplingDiscrete", "V_PREDICTION"): V,
}


class LdmPatched(Hijacked, Managed, Ldm):
    def load(self, *patchers) -> None:
        model_management.load_models_gpu(list(patchers))

    def tile(self, model, on: bool) -> None:
        apply_circular_forge(model, on)

    def scale(self, model) -> float:
        return model.forge_objects.unet.model.model_config.latent_format.scale_factor

    def family(self, model) -> str:
        # reForge's own is_sd2 looks for what its reader does not have
        reader = getattr(model, "cond_stage_model", None)
        return "SD2" if isinstance(reader, CLIP_SD_21_H) else super().family(model)

    def parameterization(self, model) -> str:
        """As it samples: of SDXL it heeds what is in the file, and no yaml."""
        kind = tuple(base.__name__ for base in type(model.forge_objects.unet.model.model_sampling).__bases__)
        return KINDS.get(kind, " ".join(kind))
