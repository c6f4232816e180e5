"""How a batch's gradients are computed, as memory and card allow: at once, in parts, or by a recorded graph."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from ..errors import PersresError
from .computing import Computing
from .graph import Graph, recorded
from .host import Host

if TYPE_CHECKING:
    from .step import Gradients


class Execution:
    """micro_batch: so many rows go through the UNet at a time; None: all. shrink: where the memory is not enough, halve
    it instead of giving up. notes: what the user should know.
    """

    def __init__(self, host: Host, computing: Computing, micro_batch: int | None, shrink: bool, notes: list[str]):
        self.micro_batch, self._shrink, self._computing, self._notes = micro_batch, shrink, computing, notes
        self._host = host
        self._may_record = host.device.type == "cuda" and host.stays
        self.forget()

    def forget(self) -> None:
        """What was recorded: another stage, or another way, begins."""
        self._graph: Graph | None = None
        self._tried = False
        self._places: list[int] = []

    def loss(self, gradients: Gradients, batch: Sequence[torch.Tensor]) -> float:
        """That of a batch; its gradients are in the weights' `grad`. PersresError where there is not enough memory."""
        while True:
            rows = min(self.micro_batch or len(batch[0]), len(batch[0]))
            try:
                with self._computing.step():
                    return self._loss(gradients, batch, rows)
            except torch.cuda.OutOfMemoryError as error:
                if not self._shrink or rows == 1:
                    raise PersresError(
                        f"There is not enough memory for {rows} row{'s' * (rows > 1)} of this resolution at a time: "
                        "lower the micro-batch, then the resolution or the rank, or switch gradient checkpointing on."
                    ) from error
            # not within except: its traceback would keep the memory
            self.micro_batch = rows // 2
            self._notes.append(
                f"The memory was short: the rows of a batch go through the model {self.micro_batch} at a time."
            )
            self.forget()
            torch.cuda.empty_cache()

    def _loss(self, gradients: Gradients, batch: Sequence[torch.Tensor], size: int) -> float:
        rows = len(batch[0])
        if self._graph and self._places != self._weights_places():
            self.forget()  # the host moved them, for a preview say, and a replay would read where they were
        if size == rows and gradients.recordable and self._may_record and not self._tried:
            self._tried = True
            self._graph = recorded(partial(gradients, slice(0, rows)), batch, gradients.weights, self._notes)
            self._places = self._weights_places()
        if self._graph:
            return self._graph(*batch).item()
        for weight in gradients.weights:
            weight.grad = None
        parts = [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
        with gradients.passes():
            return sum(gradients(part, *(tensor[part] for tensor in batch)).item() for part in parts)

    def _weights_places(self) -> list[int]:
        return [weight.data_ptr() for weight in self._host.unet.parameters()]
