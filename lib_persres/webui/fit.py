"""Whether a residual is for the loaded checkpoint, as far as family, shapes and the checkpoints' hashes say."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import PersresError
from ..metadata import Metadata
from ..residual import Residual, family_misfit
from ..unet import target_widths
from .host import HOST

FAMILIES = ("SD1", "SD2", "SDXL")
"""Those that residuals are made for."""
SHORT = 10


def misfit(outline: Residual, name: str, model, widths: Callable = target_widths) -> str | None:
    """Why a residual cannot be used with this model; None if it can, or if the model is None."""
    if model is None:
        return None
    if other := family_misfit(outline.metadata.base_family, HOST.family(model)):
        return other
    if HOST.is_refiner(model):
        return "It was made for SDXL's base model, and the loaded one is its refiner, which goes on without it."
    try:
        outline.check(HOST.unet(model), name, widths)
    except PersresError as error:
        return str(error)
    return None


def name_of(digest: str) -> str:
    """What the WebUI calls the checkpoint with this SHA-256, and the hash's first digits; "" where none is known."""
    if not digest:
        return ""
    names = HOST.checkpoints(digest)
    return f"{names[0]} ({digest[:SHORT]})" if names else digest[:SHORT]


def other_base(metadata: Metadata, checkpoint: str | None) -> str:
    """The short hash of the checkpoint that a residual was trained on; "" where it is this one, or one of the two is
    not known. checkpoint: SHA-256 in hex."""
    base = metadata.base_hash
    return base[:SHORT] if base and checkpoint and base != checkpoint else ""


def learned_elsewhere(base_hash: str) -> str | None:
    """A sentence where the loaded checkpoint is another than the residual's own, which has this SHA-256."""
    info = HOST.checkpoint(HOST.loaded_model())
    loaded = getattr(info, "sha256", None)
    if not loaded or not base_hash or base_hash == loaded:
        return None
    return f"Learned on another checkpoint, {name_of(base_hash)}; {info.name_for_extra} is loaded."
