"""What a mask of LAG's is: an object that lives as long as one sampling, looks at what it asks for, and gives a gate
for any block."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line knows the masks' names without torch
    import torch

    from .plan import Row
    from .unet import Block


@dataclass(frozen=True)
class View:
    """A block in a call of the UNet, as a mask sees it. Nothing of it has to be read from the device.

    block: its name. size: (h, w) of its pixels, in rows. rows: the S rows of the call whose texts name a concept; what
    is remembered of one is remembered by it, since an evaluation's rows may come in several calls. active: (S, K),
    whether the concept acts in the row now and its text names it. step, done: see `Mask.begin`.
    """

    block: str
    size: tuple[int, int]
    rows: tuple[Row, ...]
    active: tuple[tuple[bool, ...], ...]
    device: torch.device
    step: int = 0
    done: float | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(S, K, hw)"""
        return len(self.rows), len(self.active[0]), self.size[0] * self.size[1]


class Mask:
    """What a kind of mask has to give, `gate`, and what it may do to know more; one object for each sampling.

    Blocks come in the order in which the UNet computes them: attn1's q and k, then attn2's map, then the gate. A block
    may come again in an evaluation (another extension's extra call, a training that computes it again for its
    gradients): what is shown of a row and block then is in the place of what was. Nothing here may wait for the device.

    early: whether it gives gates before a block's own map is there, and of any size; then LAG confines all that has
    pixels, else `proj_out` alone.
    """

    early = False

    def asks(self, block: Block, gated: bool) -> Collection[str]:
        """The attentions of a block that it wants to see: "attn2" for `see`, "attn1" for `see_self`, both or none.

        gated: whether the block has something to gate; from others a map can be asked all the same.
        """
        return ("attn2",) if gated else ()

    def wants(self, view: View) -> bool:
        """Whether it wants this block's map, of those that it asked for, now that its size is known. Where it does not,
        none is computed."""
        return True

    def begin(self, step: int, done: float | None) -> None:
        """An evaluation of the denoiser begins: the step-th of the sampling, of which the part `done`, 0 to 1, lies
        behind. Step 0 begins a sampling anew. done is None in training, where each row has a noise level of its own,
        and where the sampling has one evaluation, before which nothing can be seen."""

    def see(self, view: View, maps: torch.Tensor) -> None:
        """maps: A_{i,C} (S, K, hw) in fp32, the mean over heads and layers; zero for a concept that a text lacks."""

    def see_self(self, view: View, layer: int, q: torch.Tensor, k: torch.Tensor, heads: int) -> None:
        """q, k: (S, n, heads·d) as attn1's to_q and to_k return them, unscaled. n is hw, unless an extension merges
        tokens; where one cuts pictures into tiles, there is nothing to see."""

    def gate(self, view: View) -> torch.Tensor:
        """(S, K, hw) in [0, 1]: where in this block, now, each row's concepts act. The view's block may be none of the
        UNet's where the mask is early."""
        raise NotImplementedError
