"""The plans of one evaluation of the denoiser, which may come as several calls of the UNet, in any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ...lag import Plan
from .rows import Row


class Plans:
    """What each row is given: the strength, the gates, and the mask that it makes or takes.

    Under LAG a conditional row takes the mask of its own text; a row whose text does not name the concept, another part
    of the prompt (AND) or the unconditional row, takes its image's. So masks of ones are plain sampling for every row,
    and guidance never pushes away from what the masks let in.
    """

    def __init__(
        self, parts: Sequence[int], concepts: int, mirror: bool, mask: Callable, recorder: Callable | None = None
    ):
        """parts: how many parts each image has. mirror: the unconditional rows take part, too."""
        self.parts = list(parts)
        self.mirror = mirror
        self.mask = mask
        self.recorder = recorder
        self.strength = torch.zeros(len(parts), concepts)
        self.gated = torch.zeros(len(parts), concepts, dtype=torch.bool)
        """(images, K), whether LAG confines the concept."""
        self.indices: dict[tuple[int, int, int], tuple[int, ...]] = {}
        """(image, part, k) -> the concept's tokens in that part's text of now."""
        self.masks: dict[str, dict[int, torch.Tensor]] = {}
        self._made: set[Row] = set()
        """The rows whose masks are in `masks`."""

    def names(self, row: Row, k: int) -> bool:
        """Whether the row's text has the k-th concept's tokens."""
        return row.part is not None and bool(self.indices.get((row.image, row.part, k)))

    def late(self, rows: Sequence[Row | None]) -> list[Row]:
        """Where a call with these rows needs masks that only a later call makes: all rows that make its images' masks,
        to be asked for before it, in one call, since they take masks of one another."""
        images = []
        for row in filter(self._acts, rows):
            taken = [k for k in self._on(row.image) if not self.names(row, k)]
            sources = [source for k in taken for source in self._sources(row.image, k)]
            if any(source not in self._made and source not in rows for source in sources):
                images.append(row.image)
        return [row for image in dict.fromkeys(images) for row in self._makers(image) if row not in self._made]

    def plan(self, rows: Sequence[Row | None], tokens: int, device: torch.device | str = "cpu") -> Plan | None:
        """The plan of a call with these rows and this many tokens in its context; None: the base model."""
        count = self.strength.shape[1]
        strength = torch.zeros(len(rows), count)
        gated = torch.zeros(len(rows), count, dtype=torch.bool)
        indicator = torch.zeros(len(rows), count, tokens)
        own = torch.zeros(len(rows), dtype=torch.bool)
        for place, row in enumerate(rows):
            if not self._acts(row):
                continue
            strength[place], gated[place] = self.strength[row.image], self.gated[row.image]
            for k in gated[place].nonzero().flatten().tolist():
                if self.names(row, k):
                    own[place] = True
                    indices = [index for index in self.indices[row.image, row.part, k] if index < tokens]
                    indicator[place, k, indices] = 1
                elif not self._sources(row.image, k):  # LAG, and no text has the concept now: the base model
                    strength[place, k], gated[place, k] = 0.0, False
        if not strength.any():
            # the masks of rows whose strength is zero now are never asked for
            return None
        self._made |= {row for row, makes in zip(rows, own.tolist()) if makes}
        return Plan(
            strength.to(device),
            gated.to(device),
            indicator.to(device),
            own,
            torch.tensor([len(self.parts) if row is None else row.image for row in rows]),
            mask=self.mask,
            recorder=self.recorder,
            memory=self.masks,
        )

    def _acts(self, row: Row | None) -> bool:
        return row is not None and (row.part is not None or self.mirror)

    def _on(self, image: int) -> list[int]:
        """The concepts that LAG confines in this image now."""
        return (self.gated[image] & (self.strength[image] != 0)).nonzero().flatten().tolist()

    def _sources(self, image: int, k: int) -> list[Row]:
        """The rows that make the image's mask of a concept."""
        return [row for part in range(self.parts[image]) if self.names(row := Row(image, part), k)]

    def _makers(self, image: int) -> list[Row]:
        rows = [Row(image, part) for part in range(self.parts[image])]
        return [row for row in rows if any(self.names(row, k) for k in self._on(image))]
