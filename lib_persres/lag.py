"""Localized attention-guided (LAG) sampling: masks from concept maps, and which row of a batch takes which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from .errors import PersresError


def median_mask(maps: torch.Tensor) -> torch.Tensor:
    """M_i = A_{i,C} > median(A_{i,C}) over the pixels (the paper's binarize). maps, masks: (..., hw)."""
    return (maps > maps.median(dim=-1, keepdim=True).values).to(maps.dtype)


MASKS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"median": median_mask}


@dataclass
class Plan:
    """How the branches act in one call of the UNet with b rows and K concepts.

    strength: (b, K), s_k of each row; 0 leaves the row to the base model.
    gated: (b, K), True where LAG confines the concept, False for plain sampling (M ≡ 1).
    indicator: (b, K, n), the concept's tokens C in each row's context; only the map rows' entries are read.
    map_rows: (b,), True for rows whose own maps make masks (the conditional rows).
    group: (b,), rows of one image share a number: a row that makes no map takes its group's mask.
    mask: from concept maps (rows, K, hw) to gates of the same shape in [0, 1].

    Masks are remembered for each block, so that the unconditional rows may come in a call of their own after the
    conditional ones. `recorder(block name, masks (groups, K, hw), maps, (h, w))` sees them where it is given.
    """

    strength: torch.Tensor
    gated: torch.Tensor
    indicator: torch.Tensor | None = None
    map_rows: torch.Tensor | None = None
    group: torch.Tensor | None = None
    mask: Callable[[torch.Tensor], torch.Tensor] = median_mask
    recorder: Callable | None = None
    memory: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self):
        self.localized = bool(self.gated.any())
        if not self.localized:
            return
        rows = self.strength.shape[0]
        if self.indicator is None:
            raise PersresError("LAG needs to know the concept's tokens: give the plan an indicator of them.")
        if self.map_rows is None:
            self.map_rows = torch.ones(rows, dtype=torch.bool, device=self.strength.device)
        if self.group is None:
            self.group = torch.arange(rows, device=self.strength.device)
        self.sources = self.map_rows.nonzero().flatten()
        self.groups = int(self.group.max()) + 1
        # a batch in the usual order is sliced, not gathered
        start, count = (int(self.sources[0]), len(self.sources)) if len(self.sources) else (0, 0)
        if count and bool((self.sources == torch.arange(start, start + count, device=self.sources.device)).all()):
            self.source_index: slice | torch.Tensor = slice(start, start + count)
        else:
            self.source_index = self.sources

    def gates(self, block: str, maps: torch.Tensor | None, size: tuple[int, int] | None = None) -> torch.Tensor:
        """G of each row and concept: (b, K, hw) under LAG, else (b, K, 1); strengths included.

        maps: (map rows, K, hw), the block's concept maps, or None where the call has no map row.
        """
        if not self.localized:
            return self.strength[..., None]
        if maps is not None:
            masks = self.mask(maps)
            grouped = masks.new_zeros((self.groups, *masks.shape[1:]))
            index = self.group[self.sources][:, None, None].expand_as(masks)
            # several map rows of one image (composed prompts): wherever one of them sees the concept
            grouped.scatter_reduce_(0, index, masks, "amax")
            self.memory[block] = grouped
            if self.recorder is not None:
                self.recorder(block, grouped, maps, size)
        elif block not in self.memory:
            raise PersresError(f"LAG has no mask for {block}: the unconditional rows came before the conditional.")
        gate = self.memory[block][self.group]
        if maps is not None and len(self.sources) > self.groups:
            gate[self.sources] = masks
        gate = torch.where(self.gated[..., None], gate, 1.0)
        return gate * self.strength[..., None]


def guidance_plan(
    strength: torch.Tensor,
    gated: torch.Tensor,
    indicator: torch.Tensor | None,
    *,
    unconditional: str | None = "mirror",
    mask: Callable[[torch.Tensor], torch.Tensor] = median_mask,
    recorder: Callable | None = None,
) -> Plan:
    """The plan of a classifier-free guidance call: rows [cond of each image, uncond of each image].

    strength, gated: (images, K). indicator: (images, K, n).
    unconditional: "mirror", the unconditional row takes its image's strength and mask, so that M ≡ 1 is plain
    sampling; "base", it is the base model's; None, the call has conditional rows only.
    """
    images = strength.shape[0]
    if unconditional not in ("mirror", "base", None):
        raise PersresError(f"Unconditional rows can be 'mirror' or 'base', not {unconditional!r}.")
    map_rows = torch.ones(images, dtype=torch.bool, device=strength.device)
    group = torch.arange(images, device=strength.device)
    if unconditional is not None:
        strength = torch.cat([strength, strength if unconditional == "mirror" else torch.zeros_like(strength)])
        gated = torch.cat([gated, gated])
        map_rows = torch.cat([map_rows, ~map_rows])
        group = torch.cat([group, group])
        if indicator is not None:
            indicator = torch.cat([indicator, torch.zeros_like(indicator)])
    return Plan(strength, gated, indicator, map_rows, group, mask, recorder)
