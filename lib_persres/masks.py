"""LAG's masks by their names, and the paper's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .errors import PersresError
from .mask import Mask, View

if TYPE_CHECKING:  # the command line knows the masks' names without torch
    import torch


class PerBlock(Mask):
    """The mask of a block is made of its own map now. binarize: maps (S, K, hw) -> gates of that shape in [0, 1]."""

    def __init__(self, binarize: Callable[[torch.Tensor], torch.Tensor]):
        self._binarize = binarize
        self._maps: dict[str, torch.Tensor] = {}

    def see(self, view: View, maps: torch.Tensor) -> None:
        self._maps[view.block] = maps

    def gate(self, view: View) -> torch.Tensor:
        return self._binarize(self._maps.pop(view.block))


def above_median(maps: torch.Tensor) -> torch.Tensor:
    """M_i = A_{i,C} > median(A_{i,C}) over the pixels (the paper's binarize). maps, masks: (..., hw)."""
    return (maps > maps.median(dim=-1, keepdim=True).values).to(maps.dtype)


def _fitted() -> Mask:
    from .fitted import Fitted  # which needs torch

    return Fitted()


IN_ONE_PASS: dict[str, Callable[[], Mask]] = {"median": lambda: PerBlock(above_median)}
"""Those that need no step before: a training's rows can learn under them. median is the paper's."""
MASKS: dict[str, Callable[[], Mask]] = {"fitted": _fitted, **IN_ONE_PASS}
"""The masks by their names, which the prompts' settings and the command line offer."""
DEFAULT = "fitted"
EARLY = frozenset({"fitted"})
"""The names of those that are early, see `mask.Mask`; known without torch."""


def check_mask(name: str) -> None:
    if not isinstance(name, str) or name not in MASKS:
        raise PersresError(f"There is no mask {name!r}; the masks are: {', '.join(MASKS)}.")
