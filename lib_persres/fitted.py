"""`fitted`: one mask for the whole UNet that fits the thing at any size, made of what the step before computed.

The maps are those of the UNet's output blocks where they are coarse, which know best which word is where; then pixels
that attend to one another vote, which tells best where a thing ends. What several concepts claim is contested pixel by
pixel. So a mask is there before a step's first block, and no map of the finest level is made, which cost the most.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from itertools import count

import torch
import torch.nn.functional as F

from .lag_choice import ALONE, PLACED
from .mask import Mask, View
from .plan import Row
from .unet import Block

COARSEST, VOTING = 8, 16
"""Pixels along the shorter side that the maps have at least, and those that vote: each of the coarsest such level."""
MEMORY = 0.5
"""What of a claim stays in the next step."""
TIE = 1e-4
"""Claims so near one another are equal: those of files about one word are, but for rounding."""
VOTERS = 1536
"""Pixels that vote, at most: their votes are a matrix of so many squared. Of more, neighbours vote together."""
LEAST, MOST = 0.02, 0.8
"""Share of the pixels that a concept can have."""


class Level:
    """The coarsest of the output blocks' sizes that has so many pixels along its shorter side, else the finest.

    Blocks come coarse ones first, so it is known when it comes; until then it is the finest that was seen.
    """

    def __init__(self, least: int):
        self._least = least
        self.size: tuple[int, int] | None = None

    def takes(self, view: View) -> bool:
        if self.size is None or (min(self.size) < self._least and min(view.size) > min(self.size)):
            self.size = view.size
        return view.size == self.size


class Fitted(Mask):
    """Nothing acts before something is known: what acts while there is only noise moves all of the picture."""

    early = True

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        """Block -> its last layer, whose self-attention votes: all of SDXL's ten would cost 2% of a step."""
        self._forget()

    def _forget(self) -> None:
        self._done: float | None = None
        self._look()
        self._claims: dict[Row, torch.Tensor] = {}
        """(K, h, w): how much each pixel is each concept's, of the evaluations before."""

    def _look(self) -> None:
        """What is seen from now on is of another evaluation; another extension may draw it at another size."""
        self._maps_level, self._voting_level = Level(COARSEST), Level(VOTING)
        self._maps: dict[Row, dict[str, torch.Tensor]] = {}
        """Block -> (K, h, w)."""
        self._voters: dict[Row, dict[str, tuple[tuple[int, int], torch.Tensor]]] = {}
        """Block -> the voters' (h, w), and (n, n): how much each attends to each."""
        self._cuts: dict[Row, torch.Tensor] = {}
        """(K, 1): the least claim that counts."""

    def asks(self, block: Block, gated: bool) -> Collection[str]:
        if not block.name.startswith("output_blocks."):
            return ()
        self._last[block.name] = len(block.self_attentions) - 1
        return "attn1", "attn2"

    def begin(self, step: int, done: float | None) -> None:
        if step == 0:
            self._forget()
        self._done = done
        for row, maps in self._maps.items():
            self._claims[row] = self._claim(row, maps)
        self._look()

    # -- what is seen

    def wants(self, view: View) -> bool:
        return self._maps_level.takes(view)

    def see(self, view: View, maps: torch.Tensor) -> None:
        if not self.wants(view):
            return
        for row, own in zip(view.rows, maps):
            self._maps.setdefault(row, {})[view.block] = own.nan_to_num().unflatten(-1, view.size)

    def see_self(self, view: View, layer: int, q: torch.Tensor, k: torch.Tensor, heads: int) -> None:
        if layer < self._last.get(view.block, 0) or not self._voting_level.takes(view) or q.shape[1] != view.shape[2]:
            return
        size = view.size
        together = next(f for f in count(1) if math.ceil(size[0] / f) * math.ceil(size[1] / f) <= VOTERS)
        if together > 1:
            q, k = (_pooled(t, size, together) for t in (q, k))
            size = math.ceil(size[0] / together), math.ceil(size[1] / together)
        q, k = (t.unflatten(-1, (heads, -1)).transpose(1, 2).float() for t in (q, k))
        weights = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2)).softmax(-1).mean(1)
        for row, own in zip(view.rows, weights):
            self._voters.setdefault(row, {})[view.block] = size, own.nan_to_num()

    # -- what comes of it

    def _claim(self, row: Row, seen: dict[str, torch.Tensor]) -> torch.Tensor:
        size = self._maps_level.size
        maps = torch.stack([own for own in seen.values() if tuple(own.shape[-2:]) == size]).mean(0)
        seen_by = list(self._voters.get(row, {}).values())
        voting = seen_by[-1][0] if seen_by else None  # the level that was chosen in the end
        voters = [own for of, own in seen_by if of == voting]
        maps = _resized(maps, voting)
        # each map by its mean, so that no concept's words are louder than another's; then what they say of a pixel,
        # times their share of what all concepts' words say of it
        maps = maps / maps.mean((-2, -1), keepdim=True).clamp_min(1e-12)
        claims = (maps * maps / maps.sum(0).clamp_min(1e-12)).flatten(1)
        if voters:
            claims = claims @ torch.stack(voters).mean(0).t()
        claims = claims / claims.amax(-1, keepdim=True).clamp_min(1e-12)
        claims = claims.unflatten(-1, maps.shape[-2:])
        before = self._claims.get(row)
        if before is None or before.shape != claims.shape:
            return claims
        return MEMORY * before + (1 - MEMORY) * claims

    def gate(self, view: View) -> torch.Tensor:
        return torch.stack([self._gate(row, active, view) for row, active in zip(view.rows, view.active)])

    def _gate(self, row: Row, active: tuple[bool, ...], view: View) -> torch.Tensor:
        """(K, hw)"""
        claims = self._claims.get(row)
        placing = self._done is not None and self._done < (ALONE if sum(active) > 1 else PLACED)
        if placing or claims is None or len(claims) != len(active):
            return torch.full((len(active), view.shape[2]), float(self._done is None), device=view.device)
        if row not in self._cuts:
            self._cuts[row] = otsu(claims.flatten(1))
        here = _resized(claims, view.size).flatten(1)
        return ((here > self._cuts[row]) & (here >= (1 - TIE) * here.amax(0))).to(here.dtype)


def _resized(maps: torch.Tensor, size: tuple[int, int] | None) -> torch.Tensor:
    if size is None or maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def _pooled(tokens: torch.Tensor, size: tuple[int, int], together: int) -> torch.Tensor:
    """(S, hw, d), the mean of each square of so many pixels along its side, or of what the border leaves of it."""
    pixels = tokens.transpose(1, 2).unflatten(-1, size)
    return F.avg_pool2d(pixels, together, ceil_mode=True, count_include_pad=False).flatten(2).transpose(1, 2)


def otsu(values: torch.Tensor, least: float = LEAST, most: float = MOST) -> torch.Tensor:
    """(…, n) -> (…, 1), the threshold whose two groups of values differ the most (Otsu 1979), the upper one having from
    `least` to `most` of them."""
    ordered = values.sort(dim=-1, descending=True).values
    n = values.shape[-1]
    if n < 2:
        return torch.zeros_like(values)
    above = torch.arange(1, n, device=values.device, dtype=values.dtype)
    sums = ordered.cumsum(-1)
    upper, lower = sums[..., :-1] / above, (sums[..., -1:] - sums[..., :-1]) / (n - above)
    between = above * (n - above) * (upper - lower) ** 2
    allowed = (above >= least * n) & (above <= max(most * n, 1))
    best = between.masked_fill(~allowed, -1.0).argmax(-1, keepdim=True)
    return (ordered.gather(-1, best) + ordered.gather(-1, best + 1)) / 2
