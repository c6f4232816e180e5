"""Which rows of an evaluation a call of the UNet has."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...plan import Row


class Rows:
    """The rows that one evaluation of the denoiser is expected to ask for.

    The WebUI may cut them into several calls, pad them, or leave the unconds out, so each row is told by its
    context. Images with the same prompt have the same context; they come in order, which tells them apart.
    """

    def __init__(
        self,
        order: Sequence[tuple[int, int | None]],
        cond: torch.Tensor,
        uncond: torch.Tensor,
        vectors: torch.Tensor | None = None,
    ):
        """order: as the host's `row_order`. cond: (Σ parts, n, d). uncond: (images, m, d). vectors: (Σ parts, v), what
        SDXL's UNet is given beside cond."""
        self.rows = [Row(*place) for place in order]
        self.contexts, self.vectors = [*cond, *uncond], vectors
        self._left = list(range(len(self.rows)))

    def identify(self, context: torch.Tensor, conditional: Sequence[bool] | None = None) -> list[Row | None]:
        """The rows of a call with this context (b, n, d); None for one that the evaluation did not announce.

        conditional: of each row, where the host says it, which tells a prompt from a negative prompt of the same words.
        This waits for the device, once, and so belongs before the call.
        """
        same = self._same(context).tolist()
        found: list[int | None] = []
        for place, matches in enumerate(same):
            alike = [i for i, match in enumerate(matches) if match]
            found.append(self._take(self._of_kind(alike, place, conditional) or alike))
        unknown = [place for place, index in enumerate(found) if index is None]
        # changed on the way by another extension: they can still be told by their order
        if len(unknown) <= len(self._left):
            for place in unknown:
                found[place] = self._take((self._of_kind(self._left, place, conditional) or self._left)[:1])
        return [None if index is None else self.rows[index] for index in found]

    def instead(self, wanted: Sequence[Row], rows: Sequence[Row | None], args, kwargs) -> tuple[tuple, dict]:
        """The UNet's arguments for the rows `wanted`, conditional ones, made of those of a call with `rows`, which has
        their images."""
        images = [row.image if row is not None else None for row in rows]
        places = [images.index(row.image) for row in wanted]
        numbers = [self.rows.index(row) for row in wanted]

        def taken(value):
            # what an extension told the call comes in lists and dicts, from which the UNet may take things out
            if isinstance(value, dict):
                return {name: taken(each) for name, each in value.items()}
            if type(value) in (list, tuple):
                return type(value)(map(taken, value))
            return value[places] if isinstance(value, torch.Tensor) and len(value) == len(rows) else value

        given = context_of(args, kwargs)
        args, kwargs = tuple(map(taken, args)), {name: taken(value) for name, value in kwargs.items()}
        context = torch.stack([self.contexts[number] for number in numbers]).to(given)
        kwargs = {**dict(zip(("context", "y"), args[2:])), **kwargs, "context": context}
        if kwargs.get("y") is not None and self.vectors is not None:
            kwargs["y"] = self.vectors[numbers].to(kwargs["y"])
        return args[:2], kwargs

    def _same(self, context: torch.Tensor) -> torch.Tensor:
        """(b, rows): whether they agree as far as both go, since the WebUI pads or cuts the shorter or longer."""
        columns = []
        for known in self.contexts:
            width = min(known.shape[0], context.shape[1])
            known = known[:width].to(context)
            columns.append((context[:, :width] == known).flatten(1).all(1))
        return torch.stack(columns, 1)

    def _of_kind(self, indices: Sequence[int], place: int, conditional: Sequence[bool] | None) -> list[int]:
        """Those that may be a call's row at this place."""
        if conditional is None:
            return list(indices)
        return [index for index in indices if (self.rows[index].part is not None) == conditional[place]]

    def _take(self, matches: list[int]) -> int | None:
        if not matches:
            return None
        # a second call with a row that was there before is another extension's extra one: the same row again
        index = next((match for match in matches if match in self._left), matches[0])
        if index in self._left:
            self._left.remove(index)
        return index


def context_of(args, kwargs) -> torch.Tensor | None:
    """That of a UNet's arguments: x, timesteps, context, y."""
    return kwargs.get("context", args[2] if len(args) > 2 else None)
