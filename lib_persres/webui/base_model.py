"""The checkpoint that a residual was learned on, as far as the WebUI knows checkpoints by their hashes."""

from __future__ import annotations

from modules import sd_models

SHORT = 10


def loaded_model():
    """The model in memory, or None; shared.sd_model would wait for it to load."""
    return sd_models.model_data.sd_model


def name_of(digest: str) -> str:
    """What the WebUI calls the checkpoint with this SHA-256, and the hash's first digits; "" where none is known."""
    if not digest:
        return ""
    names = [info.name_for_extra for info in list(sd_models.checkpoints_list.values()) if info.sha256 == digest]
    return f"{names[0]} ({digest[:SHORT]})" if names else digest[:SHORT]


def learned_elsewhere(base_hash: str) -> str | None:
    """A sentence where the loaded checkpoint is another than the residual's own, which has this SHA-256."""
    info = getattr(loaded_model(), "sd_checkpoint_info", None)
    loaded = getattr(info, "sha256", None)  # None under --no-hashing
    if not loaded or not base_hash or base_hash == loaded:
        return None
    return f"Learned on another checkpoint, {name_of(base_hash)}; {info.name_for_extra} is loaded."
