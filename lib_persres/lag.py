"""Localized attention-guided (LAG) sampling: masks from concept maps, and which row of a batch takes which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .errors import PersresError


def median_mask(maps: torch.Tensor) -> torch.Tensor:
    """M_i = A_{i,C} > median(A_{i,C}) over the pixels (the paper's binarize). maps, masks: (..., hw)."""
    return (maps > maps.median(dim=-1, keepdim=True).values).to(maps.dtype)


UNCONDITIONAL = ("mirror", "base")


def check_unconditional(value: str) -> None:
    if value not in UNCONDITIONAL:
        raise PersresError(f"Unconditional rows can be {' or '.join(UNCONDITIONAL)}, not {value!r}.")


MASKS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"median": median_mask}


@dataclass
class Plan:
    """How the branches act in one call of the UNet with b rows and K concepts.

    strength: (b, K), s_k of each row; 0 leaves the row to the base model.
    gated: (b, K), True where LAG confines the concept, False for plain sampling (M ≡ 1). It says nothing to targets
    that LAG does not gate (see `unet.Target.gated`): they take the strength alone.
    indicator: (b, K, n), the concept's tokens C in each row's context; only the map rows' entries are read.
    map_rows: (b,), True for rows whose own maps make masks (the conditional rows).
    group: (b,), rows of one image share a number: a row whose text does not name a concept, as the unconditional
    one's, takes its group's mask of it, the union of the masks of the group's map rows (several where prompts are
    composed). So whatever the rows, masks of ones are plain sampling.
    mask: from concept maps (rows, K, hw) to gates of the same shape in [0, 1].
    recorder: sees each block's (name, masks (images, K, hw), maps (map rows, K, hw), (h, w)).
    memory: the groups' masks, block -> group -> (K, hw), for the calls of one evaluation to share where a group's
    rows come in several; a map row's mask is united with what its group has there. Each evaluation has a fresh
    one. None: this call has all rows, and the plan may serve any number of evaluations.
    """

    strength: torch.Tensor
    gated: torch.Tensor
    indicator: torch.Tensor | None = None
    map_rows: torch.Tensor | None = None
    group: torch.Tensor | None = None
    mask: Callable[[torch.Tensor], torch.Tensor] = median_mask
    recorder: Callable | None = None
    memory: dict[str, dict[int, torch.Tensor]] | None = None

    def __post_init__(self):
        rows = self.strength.shape[0]
        self.idle = not bool(self.strength.any())
        self.localized = bool(self.gated.any()) and not self.idle
        self._sources: list[int] = []
        if not self.localized:
            return
        if self.indicator is None:
            raise PersresError("LAG needs to know the concept's tokens: give the plan an indicator of them.")
        if self.map_rows is None:
            self.map_rows = torch.ones(rows, dtype=torch.bool)
        if self.group is None:
            self.group = torch.arange(rows)
        for name in ("gated", "indicator", "map_rows", "group"):
            if getattr(self, name).shape[0] != rows:
                raise PersresError(f"The plan's {name} is for {getattr(self, name).shape[0]} rows, not for {rows}.")
        # plain numbers, so that no hook has to wait for the device
        self._groups: list[int] = self.group.tolist()
        self._masked: list[bool] = self.gated.any(1).tolist()
        self._sources = self.map_rows.nonzero().flatten().tolist()
        self._named = (self.indicator != 0).any(-1)

    @property
    def makes_maps(self) -> bool:
        return bool(self._sources)

    def of_map_rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """The map rows of a (b, …) tensor; a view where they follow one another, as they usually do."""
        first, count = self._sources[0], len(self._sources)
        if self._sources == list(range(first, first + count)):
            return tensor[first : first + count]
        return tensor[self._sources]

    def gates(self, block: str, maps: torch.Tensor | None, size: tuple[int, int] | None = None) -> torch.Tensor:
        """G of each row and concept: (b, K, hw) under LAG, else (b, K, 1); strengths included.

        maps: (map rows, K, hw), the block's concept maps, or None where the call has no map row.
        """
        if not self.localized:
            return self.strength[..., None]
        own = {}
        known = {} if self.memory is None else self.memory.setdefault(block, {})
        if maps is not None:
            own = dict(zip(self._sources, self.mask(maps)))
            for row, mask in own.items():
                group = self._groups[row]
                known[group] = torch.maximum(known[group], mask) if group in known else mask
            if self.recorder is not None:
                here = sorted({self._groups[row] for row in own})
                self.recorder(block, torch.stack([known[group] for group in here]), maps, size)
        elif self.makes_maps:
            raise PersresError(f"LAG saw no cross-attention in {block}: something replaced it. Switch LAG off.")
        rows = []
        for row, (group, masked) in enumerate(zip(self._groups, self._masked)):
            mask = known.get(group)
            if row in own and mask is not own[row]:
                mask = torch.where(self._named[row][:, None], own[row], mask)
            if mask is None and masked:
                raise PersresError(f"LAG has no mask for {block}: unconditional rows came before the conditional.")
            rows.append(mask)
        like = next(mask for mask in rows if mask is not None)
        gate = torch.stack([torch.ones_like(like) if mask is None else mask for mask in rows])
        return torch.where(self.gated[..., None], gate, 1.0) * self.strength[..., None]


def guidance_plan(
    strength: torch.Tensor,
    gated: torch.Tensor,
    indicator: torch.Tensor | None,
    *,
    unconditional: str | None = "mirror",
    mask: Callable[[torch.Tensor], torch.Tensor] = median_mask,
    recorder: Callable | None = None,
    memory: dict[str, dict[int, torch.Tensor]] | None = None,
) -> Plan:
    """The plan of a classifier-free guidance call: rows [cond of each image, uncond of each image].

    strength, gated: (images, K). indicator: (images, K, n).
    unconditional: "mirror", the unconditional row takes its image's strength and mask, so that M ≡ 1 is plain
    sampling; "base", it is the base model's; None, the call has conditional rows only.
    """
    images = strength.shape[0]
    if unconditional is not None:
        check_unconditional(unconditional)
    map_rows = torch.ones(images, dtype=torch.bool, device=strength.device)
    group = torch.arange(images, device=strength.device)
    if unconditional is not None:
        strength = torch.cat([strength, strength if unconditional == "mirror" else torch.zeros_like(strength)])
        gated = torch.cat([gated, gated])
        map_rows = torch.cat([map_rows, ~map_rows])
        group = torch.cat([group, group])
        if indicator is not None:
            indicator = torch.cat([indicator, torch.zeros_like(indicator)])
    return Plan(strength, gated, indicator, map_rows, group, mask, recorder, memory)
