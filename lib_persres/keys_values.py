"""Keys and values under LAG: they are of the text, but what the pixels make of them has a place.

A cross-attention is computed with the keys and values of all that no mask confines, and once more with each confined
concept's; each pixel p takes those of the concept whose mask has it (DESIGN §2, equation 3, at the attention's output):

    out_p = (1 − Σ_k M_kp) · attn(q_p, K, V) + Σ_k M_kp · attn(q_p, K + ΔK_k, V + ΔV_k)

So where no mask is the numbers are the base model's, and masks of ones are plain sampling, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from .lag import Lag
from .plan import Plan
from .unet import TEXTS, Block


class KeysValues:
    """The cross-attentions whose keys or values some concepts change.

    changed: target path -> the concepts that change it.
    """

    def __init__(self, lag: Lag, blocks: Sequence[Block], changed: Mapping[str, Sequence[int]]):
        self._lag = lag
        self._attentions = []
        for block in blocks:
            for layer, attention in enumerate(block.attentions):
                paths = (f"{block.name}.transformer_blocks.{layer}.{end}" for end in TEXTS)
                if concepts := sorted({k for path in paths for k in changed.get(path, ())}):
                    self._attentions.append((block, attention, concepts))
        self._acting: torch.Tensor | None = None
        """(b, K), which concepts' keys and values act in the attention that is computed now; None: all."""
        self._handles: list[RemovableHandle] = []

    def attach(self) -> None:
        for block, attention, concepts in self._attentions if self._lag.is_early else ():
            confined: list[int] = []
            self._handles += [
                attention.register_forward_pre_hook(self._before(block, concepts, confined)),
                attention.register_forward_hook(self._after(block, confined), with_kwargs=True),
            ]

    def detach(self) -> None:
        self._acting = None
        while self._handles:
            self._handles.pop().remove()

    def strengths(self, plan: Plan) -> torch.Tensor:
        """s of each row and concept in what is computed now, (b, K)."""
        strength = plan.strength if plan.reading is None else plan.reading
        return strength if self._acting is None else strength * self._acting

    def _before(self, block: Block, concepts: list[int], confined: list[int]) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            self._acting = None
            confined.clear()
            plan, size = self._lag.plan, self._lag.size_in(block)
            if plan is None or plan.idle or size is None or not plan.localized:
                return
            # where another extension merges tokens, pixels have no place
            if args[0].shape[:2] == (len(plan.strength), size[0] * size[1]):
                confined.extend([k for k in concepts if any(row[k] != () for row in plan.takes)])
            if confined:
                self._acting = self._selected(plan, confined, [])

        return hook

    def _after(self, block: Block, confined: list[int]) -> Callable[..., torch.Tensor | None]:
        def hook(
            module: nn.Module, args: tuple[torch.Tensor, ...], kwargs: Mapping[str, Any], output: torch.Tensor
        ) -> torch.Tensor | None:
            plan, size = self._lag.plan, self._lag.size_in(block)
            if not confined or plan is None or size is None:
                return None
            masks = self._lag.masks_of(size, plan) * plan.gated[..., None]
            masks = masks.to(output.dtype)[..., None]  # (b, K, hw, 1)
            own = masks[:, confined]
            result = output * (1 - own.sum(1))
            try:
                with self._lag.blind():
                    for place, k in enumerate(confined):
                        self._acting = self._selected(plan, confined, [k])
                        result = result + own[:, place] * module.forward(*args, **kwargs)
                    if len(confined) > 1:  # where masks overlap all of them act, as they do plainly
                        self._acting = None
                        result = torch.where(own.sum(1) > 1, module.forward(*args, **kwargs), result)
            finally:
                self._acting = None
            return result

        return hook

    @staticmethod
    def _selected(plan: Plan, confined: Sequence[int], chosen: Sequence[int]) -> torch.Tensor:
        """What no mask confines, and of the confined these."""
        left_out = [k for k in confined if k not in chosen]
        acting = torch.ones_like(plan.strength)
        acting[:, left_out] = (~plan.gated[:, left_out]).to(acting.dtype)
        return acting
