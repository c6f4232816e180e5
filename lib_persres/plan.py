"""How the branches act in a call of the UNet, as data: made on the CPU from what the concepts do, before the call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import torch

from .concepts import Use, check_unconditional


@dataclass(frozen=True)
class Row:
    """A row of the UNet's batch. part: which part (AND) of the image's prompt; None is the unconditional row."""

    image: int
    part: int | None


def guidance_rows(images: int, guided: bool = True) -> list[Row]:
    """The rows of a call that has them all: [cond of each image, uncond of each image]."""
    return [Row(image, part) for part in ((0, None) if guided else (0,)) for image in range(images)]


@dataclass(frozen=True, eq=False)
class Plan:
    """One call with b rows and K concepts. Tensors are where the UNet computes; nothing else has to be read there.

    strength: (b, K), s_k of each row; 0 leaves the row to the base model.
    gated: (b, K), True where LAG confines the concept, False for plain sampling (M ≡ 1). It says nothing to targets
    that LAG does not gate (see `unet.Target.gated`): they take the strength alone.
    reading: (b, K), the strength of keys and values; None: the same.
    localized: whether LAG confines anything in this call. idle: whether nothing acts in it, and it is for masks alone.
    makers: the S rows whose own maps make masks. places: where they are among the rows, and index: the same for
    tensors. indicator: (S, K, n), each one's tokens C in its context. active: (S, K), whether the concept acts there
    and the row's text names it.
    takes: (b, K), the rows whose masks a row takes, united; None is its own, () none.
    lenders: of those the ones that are in other calls. lending: as `active`, of them; only an early mask knows them.
    """

    strength: torch.Tensor
    gated: torch.Tensor
    reading: torch.Tensor | None = None
    localized: bool = False
    idle: bool = False
    makers: tuple[Row, ...] = ()
    places: tuple[int, ...] = ()
    index: slice | torch.Tensor | None = None
    indicator: torch.Tensor | None = None
    active: tuple[tuple[bool, ...], ...] = ()
    takes: tuple[tuple[tuple[Row, ...] | None, ...], ...] = ()
    lenders: tuple[Row, ...] = ()
    lending: tuple[tuple[bool, ...], ...] = ()

    def of_makers(self, tensor: torch.Tensor) -> torch.Tensor:
        """The makers' rows of a (b, …) tensor; a view where they follow one another, as they usually do."""
        return tensor[self.index] if isinstance(self.index, slice) else tensor.index_select(0, self.index)


class Plans:
    """The plans of one evaluation of the denoiser, which may come as several calls of the UNet, in any order.

    Under LAG a conditional row takes the mask of its own text; a row whose text does not name the concept, another part
    of the prompt (AND) or the unconditional row, takes its image's, the union of those that its parts make. So masks
    of ones are plain sampling for every row, and guidance never pushes away from what the masks let in.
    """

    def __init__(self, uses: Sequence[Sequence[Use]], unconditional: str = "mirror"):
        """uses: for each image those of the K concepts. unconditional: one of `concepts.UNCONDITIONAL`."""
        check_unconditional(unconditional)
        self.uses = [list(image) for image in uses]
        self.mirror = unconditional == "mirror"
        self._made: set[Row] = set()
        """The rows whose masks the calls until now make."""

    def plan(self, rows: Sequence[Row | None], tokens: int, device: torch.device | str = "cpu") -> Plan | None:
        """The plan of a call with these rows, None for one that is not ours, and this many tokens in its context.

        None: the call is the base model's.
        """
        count = len(self.uses[0])
        strength = [[0.0] * count for _ in rows]
        gated = [[False] * count for _ in rows]
        takes: list[list[tuple[Row, ...] | None]] = [[()] * count for _ in rows]
        for place, row in enumerate(rows):
            if not self._acts(row):
                continue
            for k, use in enumerate(self.uses[row.image]):
                if use.gated:
                    takes[place][k] = None if self.names(row, k) else self._sources(row.image, k)
                if takes[place][k] == () and use.gated:
                    continue  # LAG, and no text has the concept now: the base model
                strength[place][k], gated[place][k] = use.strength, use.gated
        idle = not any(map(any, strength))
        if idle and not any(use.waits for image in self.uses for use in image):
            # the masks of rows whose strength is zero now are never asked for
            return None
        placed = {"strength": _on(device, torch.tensor(strength)), "gated": _on(device, torch.tensor(gated))}
        if not all(use.reads for image in self.uses for use in image):
            reads = [[row is not None and use.reads for use in self.uses[row.image if row else 0]] for row in rows]
            placed["reading"] = placed["strength"] * _on(device, torch.tensor(reads))
        if not any(map(any, gated)):
            return None if idle else Plan(**placed)
        making = [(place, row) for place, row in enumerate(rows) if row is not None and None in takes[place]]
        places, makers = tuple(place for place, _ in making), tuple(row for _, row in making)
        self._made.update(makers)
        taken = (row for each in takes for sources in each for row in sources or ())
        lenders = tuple(row for row in dict.fromkeys(taken) if row not in makers)
        index = slice(places[0], places[-1] + 1) if places else None
        if places and places[-1] - places[0] + 1 > len(places):
            index = _on(device, torch.tensor(places))
        return Plan(
            **placed,
            idle=idle,
            localized=True,
            makers=makers,
            places=places,
            index=index,
            indicator=_on(device, self._indicator(makers, tokens)) if makers else None,
            active=self._active(makers),
            takes=tuple(map(tuple, takes)),
            lenders=lenders,
            lending=self._active(lenders),
        )

    def missing(self, rows: Sequence[Row | None]) -> list[Row]:
        """Where a call with these rows needs masks that only a later call makes: all rows that make its images' masks,
        to be asked for before it, in one call, since they take masks of one another."""
        images = []
        for row in filter(self._acts, rows):
            taken = [k for k in self._confined(row.image) if not self.names(row, k)]
            sources = [source for k in taken for source in self._sources(row.image, k)]
            if any(source not in self._made and source not in rows for source in sources):
                images.append(row.image)
        return [row for image in dict.fromkeys(images) for row in self._makers(image) if row not in self._made]

    def names(self, row: Row, k: int) -> bool:
        """Whether the row's text has the k-th concept's tokens."""
        return bool(self._tokens(row, k))

    def _active(self, rows: Sequence[Row]) -> tuple[tuple[bool, ...], ...]:
        return tuple(
            tuple(use.strength != 0 and self.names(row, k) for k, use in enumerate(self.uses[row.image]))
            for row in rows
        )

    def _tokens(self, row: Row, k: int) -> tuple[int, ...]:
        """The k-th concept's in the row's text."""
        return () if row.part is None else self.uses[row.image][k].indices[row.part]

    def _acts(self, row: Row | None) -> TypeGuard[Row]:
        return row is not None and (row.part is not None or self.mirror)

    def _confined(self, image: int) -> list[int]:
        """The concepts that LAG confines in this image now."""
        return [k for k, use in enumerate(self.uses[image]) if use.gated and use.strength != 0]

    def _sources(self, image: int, k: int) -> tuple[Row, ...]:
        """The rows that make the image's mask of a concept."""
        return tuple(Row(image, part) for part, found in enumerate(self.uses[image][k].indices) if found)

    def _makers(self, image: int) -> list[Row]:
        rows = [Row(image, part) for part in range(len(self.uses[image][0].indices))]
        return [row for row in rows if any(self.names(row, k) for k in self._confined(image))]

    def _indicator(self, makers: Sequence[Row], tokens: int) -> torch.Tensor:
        indicator = torch.zeros(len(makers), len(self.uses[0]), tokens)
        for place, row in enumerate(makers):
            for k in range(len(self.uses[row.image])):
                # of those that LAG does not confine, too: a mask may keep out of their places
                indicator[place, k, [index for index in self._tokens(row, k) if index < tokens]] = 1
        return indicator


def _on(device: torch.device | str, tensor: torch.Tensor) -> torch.Tensor:
    # to a card without waiting for what it still computes; it copies from pageable memory before it returns
    return tensor.to(device, non_blocking=torch.device(device).type == "cuda")
