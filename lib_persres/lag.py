"""Localized attention-guided (LAG) sampling: from what the attentions compute to the gates of each row."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from .attention import Taps, concept_maps
from .errors import PersresError
from .mask import Mask, View
from .masks import MASKS
from .plan import Plan, Row
from .unet import Block


class Listener(Protocol):
    """Is told of masks as they are made; it must not wait for the device there."""

    def begin(self) -> None:
        """An evaluation begins."""

    def see(self, view: View, masks: torch.Tensor, maps: torch.Tensor | None) -> None:
        """masks, maps: (S, K, hw); maps None where the mask did not ask for them."""


class Lag:
    """A mask at work on a UNet: it is shown what it asks for, and what it makes goes to the rows that take it.

    blocks: all of the UNet's. gated: the names of those where something is to be gated by their own mask. anywhere:
    whether something is gated elsewhere, too, which takes an early mask. plan: of the next calls.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        gated: Sequence[str],
        mask: Mask | None = None,
        listener: Listener | None = None,
        *,
        anywhere: bool = False,
    ):
        self.plan: Plan | None = None
        self.mask = MASKS["median"]() if mask is None else mask
        self._listener = listener
        self._gated = set(gated)
        self._anywhere = anywhere and self.mask.early
        watched = blocks if gated or self._anywhere else ()
        asked = {block: set(self.mask.asks(block, block.name in self._gated)) for block in watched}
        self._asked = {
            block: names for block, names in asked.items() if names or self._anywhere or block.name in self._gated
        }
        self._shared: tuple[Plan | None, dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]]] = (None, {})
        """A plan's masks of each size, and its gates, of this evaluation."""
        self._blind = False
        self._at: tuple[int, float | None] = (0, None)
        self._handles: list[RemovableHandle | Taps] = []
        self._sizes: dict[str, tuple[int, int]] = {}
        self._layers: dict[str, list[torch.Tensor]] = {}
        """Block -> the maps of its layers, until its gate is made."""
        self._masks: dict[str, dict[Row, torch.Tensor]] = {}
        """Block -> row -> (K, hw), of this evaluation."""

    def attach(self) -> None:
        for block, names in self._asked.items():
            self._handles.append(block.module.register_forward_pre_hook(self._enter(block)))
            if block.name not in self._gated:
                self._handles.append(block.proj_out.register_forward_pre_hook(self._leave(block)))
            if "attn1" in names:
                self._handles.append(Taps([block], self._see_self, "attn1"))
            if "attn2" in names:
                self._handles.append(Taps([block], self._see))

    def detach(self) -> None:
        """Remove every hook and forget the plan and the masks."""
        while self._handles:
            self._handles.pop().remove()
        self.plan, self._shared = None, (None, {})
        self._blind = False
        for kept in (self._sizes, self._layers, self._masks):
            kept.clear()

    @contextlib.contextmanager
    def blind(self) -> Iterator[None]:
        """What is computed now is for the picture alone: no mask sees it."""
        self._blind = True
        try:
            yield
        finally:
            self._blind = False

    def begin(self, step: int, done: float | None) -> None:
        """An evaluation of the denoiser begins, see `Mask.begin`; its rows may come in several calls."""
        self._at = step, done
        self._shared = None, {}
        self._masks.clear()
        self.mask.begin(step, done)
        if self._listener is not None:
            self._listener.begin()

    def gates(self, block: Block, plan: Plan) -> torch.Tensor:
        """G of each row and concept: (b, K, hw) under LAG, else (b, K, 1); strengths included. plan: of this call."""
        if not plan.localized:
            return plan.strength[..., None]
        maps, view = None, self._view(block, plan)
        if plan.makers:
            maps = self._show(block, plan)
            if maps is None and "attn2" in self._asked[block] and self.mask.wants(view):
                raise PersresError(
                    f"LAG saw no cross-attention in {block.name}: something replaced it. Switch LAG off."
                )
        return self._taken_masks(view, plan, maps) * plan.strength[..., None]

    def look(self, block: Block, plan: Plan) -> None:
        """Show the mask what it asked for of a block whose gates nobody wants now."""
        if plan.makers:
            self._show(block, plan)

    def gates_of(self, size: tuple[int, int], plan: Plan) -> torch.Tensor:
        """The same of anything that has so many pixels (h, w), by an early mask."""
        return self._early(size, plan)[1] if plan.localized and self._anywhere else plan.strength[..., None]

    def masks_of(self, size: tuple[int, int], plan: Plan) -> torch.Tensor:
        """M of each row and concept, (b, K, hw), by an early mask; 1 where LAG confines nothing. plan: a localized
        one."""
        return self._early(size, plan)[0]

    @property
    def is_early(self) -> bool:
        """Whether something beside proj_out is confined."""
        return self._anywhere

    def _early(self, size: tuple[int, int], plan: Plan) -> tuple[torch.Tensor, torch.Tensor]:
        if self._shared[0] is not plan:
            self._shared = plan, {}
        found = self._shared[1]
        if size not in found:
            step, done = self._at
            device = plan.strength.device
            view = View(f"{size[0]}x{size[1]}", size, plan.makers, plan.active, device, step, done)
            masks = self._taken_masks(view, plan, None)
            found[size] = masks, masks * plan.strength[..., None]
        return found[size]

    def size_in(self, block: Block) -> tuple[int, int] | None:
        """The pixels (h, w) of a block in this call; None where nobody looked."""
        return self._sizes.get(block.name)

    def _taken_masks(self, view: View, plan: Plan, maps: torch.Tensor | None) -> torch.Tensor:
        """Each row's, (b, K, hw)."""
        known = self._masks.setdefault(view.block, {})
        own: dict[int, torch.Tensor] = {}
        if plan.makers:
            masks = self.mask.gate(view)
            own = dict(zip(plan.places, masks))
            known.update(zip(plan.makers, masks))
            if self._listener is not None:
                self._listener.see(view, masks, maps)
        if plan.lenders and self.mask.early:
            # it is made of the evaluation before, so it is the same before their call and after it
            known.update(zip(plan.lenders, self.mask.gate(replace(view, rows=plan.lenders, active=plan.lending))))
        try:
            rows = [_taken(takes, own, place, known) for place, takes in enumerate(plan.takes)]
        except KeyError as error:
            raise PersresError(
                f"LAG has no mask for {view.block}: unconditional rows came before the conditional."
            ) from error
        anything = next(mask for mask in rows if mask is not None)
        gate = torch.stack([anything if mask is None else mask for mask in rows])
        return torch.where(plan.gated[..., None], gate, 1.0)

    # -- what the mask sees

    @property
    def _watched(self) -> Plan | None:
        """The plan of a call in which masks are made."""
        return self.plan if self.plan is not None and self.plan.makers and not self._blind else None

    def _view(self, block: Block, plan: Plan) -> View:
        step, done = self._at
        return View(block.name, self._sizes[block.name], plan.makers, plan.active, plan.strength.device, step, done)

    def _enter(self, block: Block) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            if self.plan is not None:
                if len(args[0]) != len(self.plan.strength):
                    raise PersresError(
                        f"The plan is for {len(self.plan.strength)} rows, but the UNet was called with {len(args[0])}."
                    )
                self._layers.pop(block.name, None)  # of a forward that ended in an exception
                height, width = args[0].shape[-2:]
                self._sizes[block.name] = height, width

        return hook

    def _leave(self, block: Block) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            if self.plan is not None:
                self._show(block, self.plan)  # gives a map, which a hook must not

        return hook

    def _see(self, block: Block, layer: int, q: torch.Tensor, k: torch.Tensor, heads: int) -> None:
        plan = self._watched
        if plan is None or plan.indicator is None:
            return
        tokens = plan.indicator.shape[-1]
        if tokens != k.shape[1]:
            raise PersresError(f"The plan marks tokens in a context of {tokens}, but {block.name} sees {k.shape[1]}.")
        if not self.mask.wants(self._view(block, plan)):
            return
        q, k = (plan.of_makers(tensor) for tensor in (q, k))
        with torch.no_grad():  # a mask has no gradient
            self._layers.setdefault(block.name, []).append(concept_maps(q, k, plan.indicator, heads))

    def _see_self(self, block: Block, layer: int, q: torch.Tensor, k: torch.Tensor, heads: int) -> None:
        plan = self._watched
        if plan is not None and len(q) == len(plan.strength):
            q, k = (plan.of_makers(tensor).detach() for tensor in (q, k))
            with torch.no_grad():
                self.mask.see_self(self._view(block, plan), layer, q, k, heads)

    def _show(self, block: Block, plan: Plan) -> torch.Tensor | None:
        """Show the mask the block's map, all layers of which were seen, and give it back; None where there is none."""
        layers = self._layers.pop(block.name, None)
        if layers is None:
            return None
        maps = layers[0] if len(layers) == 1 else torch.stack(layers).mean(0)
        self.mask.see(self._view(block, plan), maps)
        return maps


def _taken(
    takes: Sequence[tuple[Row, ...] | None],
    own: Mapping[int, torch.Tensor],
    place: int,
    known: Mapping[Row, torch.Tensor],
) -> torch.Tensor | None:
    """The masks (K, hw) of the row at this place: its own, or the union of other rows'; None where it takes none."""
    kinds = {rows for rows in takes if rows != ()}
    if not kinds:
        return None
    found = {rows: own[place] if rows is None else _union([known[row] for row in rows]) for rows in kinds}
    if len(kinds) == 1:
        return found[kinds.pop()]
    anything = next(iter(found.values()))
    return torch.stack([found.get(rows, anything)[k] for k, rows in enumerate(takes)])


def _union(masks: list[torch.Tensor]) -> torch.Tensor:
    union = masks[0]
    for mask in masks[1:]:
        union = torch.maximum(union, mask)
    return union
