"""Rules for targets: their spelling, and what each names. Which modules these are in a UNet, `unet` knows."""

from __future__ import annotations

from collections.abc import Iterable

from .errors import PersresError

EMBEDDING = "embedding"
"""The identifier's token embedding: no module of the UNet, but learned and kept like one."""
LAYERED = {
    "attn1": ("attn1", ("to_q", "to_k", "to_v", "to_out.0")),
    "kv": ("attn2", ("to_k", "to_v")),
    "attn2": ("attn2", ("to_q", "to_k", "to_v", "to_out.0")),
    "ff": ("ff", ("net.0.proj", "net.2")),
}
"""Of an attention, or the feed-forward, of every layer of a block."""
ATTENTIONS = tuple(part for part in LAYERED if part != "ff")
EVERY = "unet"
"""The rule that picks every Linear and Conv2d, and so whatever any rule picks."""
PARTS = (EMBEDDING, "proj_in", *LAYERED, "proj_out", EVERY)
"""In a rule's canonical order."""
PLACELESS = frozenset({EMBEDDING})
"""The parts that no mask confines: what they change is the text's."""
_WITHIN = {"kv": ("attn2", EVERY), **{part: (EVERY,) for part in ("proj_in", "attn1", "attn2", "ff", "proj_out")}}


def parts_of(rule: str) -> list[str]:
    """What a rule such as "kv+proj_out" names, in canonical order. PersresError where it names what there is not."""
    parts = {part.strip() for part in str(rule).split("+")}
    if parts - set(PARTS):
        raise PersresError(
            f"{str(rule)[:60]!r} names no targets: they are {', '.join(PARTS)}, or several joined as kv+proj_out."
        )
    return [part for part in PARTS if part in parts and not parts.intersection(_WITHIN.get(part, ()))]


def canonical(rule: str) -> str:
    """The one spelling of a rule."""
    return "+".join(parts_of(rule))


def together(rules: Iterable[str]) -> str:
    """The rule that picks what any of these picks."""
    return canonical("+".join(rules))
