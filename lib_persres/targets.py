"""Rules for targets: their spelling, and what each names. Which modules these are in a UNet, `unet` knows."""

from __future__ import annotations

from .errors import PersresError

LAYERED = {"kv": ("to_k", "to_v"), "attn2": ("to_q", "to_k", "to_v", "to_out.0")}
"""Of the cross-attention of every layer of a block."""
PARTS = ("proj_in", *LAYERED, "proj_out")
"""In the order in which they act: a rule's canonical order."""
EVERY = "proj_in+attn2+proj_out"
"""The rule that picks whatever any rule picks."""


def parts_of(rule: str) -> list[str]:
    """What a rule such as "kv+proj_out" names, in canonical order. PersresError where it names what there is not."""
    parts = {part.strip() for part in str(rule).split("+")}
    if parts - set(PARTS):
        raise PersresError(
            f"{str(rule)[:60]!r} names no targets: they are {', '.join(PARTS)}, or several joined as kv+proj_out."
        )
    if "attn2" in parts:
        parts.discard("kv")
    return [part for part in PARTS if part in parts]


def canonical(rule: str) -> str:
    """The one spelling of a rule."""
    return "+".join(parts_of(rule))
