"""How much of a pipeline's sampling lies behind, told by the times at which it calls its UNet.

Counting the calls would not do: some pipelines call it more than once a step, and img2img begins after the first of
its scheduler's times.
"""

from __future__ import annotations

from typing import Any

import torch

from ..errors import PersresError

NEAR = 1 / 256
"""As a part of a time: a time in half precision is that near to the scheduler's own."""


class Steps:
    """Of one sampling, or of several of a call in a row: each `set_timesteps` of the scheduler begins one."""

    def __init__(self, pipe: Any):
        self._pipe = pipe
        self._asked: Any = None
        """The scheduler's times as they are there, by which a new sampling is known."""
        self._times: list[float] = []
        self._number = self._place = self._first = 0
        self._total = 1

    @property
    def total(self) -> int:
        """Of the sampling that is drawn now."""
        return self._total

    def next(self, time: Any) -> tuple[int, float]:
        """The number of this call of the UNet, from 0, and the part of the sampling, 0 to 1, that lies behind."""
        asked = getattr(self._pipe.scheduler, "timesteps", None)
        if asked is None or not len(asked):
            raise PersresError(f"{type(self._pipe).__name__} does not tell its steps, so residuals cannot act in it.")
        now = float(torch.as_tensor(time).flatten()[0])
        if asked is not self._asked:
            self._asked, self._times = asked, [float(each) for each in torch.as_tensor(asked).tolist()]
            self._number, self._place = -1, self._begin(now)  # -1: counted below
        elif self._place + 1 in (places := self._places(now)):
            self._place += 1  # a scheduler may have a time twice, for two calls of a step
        elif self._place not in places:
            self._place = next((place for place in places if place > self._place), places[0])
        self._number += 1
        return self._number, min(max(self._place - self._first, 0) / self._total, 1.0)

    def _begin(self, now: float) -> int:
        """The place of the first call, and how many there are from there: as the pipeline says, or all that follow."""
        places, own = self._places(now), getattr(self._pipe, "num_timesteps", None)
        self._first = len(self._times) - own if own and len(self._times) - own in places else places[0]
        self._total = own or len(self._times) - self._first
        return self._first

    def _places(self, now: float) -> list[int]:
        """Where the scheduler has this time."""
        nearest = min(abs(time - now) for time in self._times)
        if nearest > NEAR * abs(now):
            raise PersresError(
                f"{type(self._pipe).__name__} calls its UNet at the time {now:g}, which its scheduler does not have: "
                "residuals cannot act in it, since they are to know how far the sampling is."
            )
        return [place for place, time in enumerate(self._times) if abs(time - now) == nearest]
