"""What a training learns, whatever it is: factors, matrices, rotations, a word's vector."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from typing import Protocol

import torch
from torch import nn

from ..plan import Plan
from ..residual import Residual
from .recipe import Stage
from .texts import Texts


class Learned(Protocol):
    """A change of the model. Within `attached` it acts while `plan` is set.

    What a kind of change does not need of this it leaves as it is here; `changes` makes those of a recipe.
    """

    plan: Plan | None = None

    @abstractmethod
    def weights(self, rule: str) -> list[nn.Parameter]:
        """The parameters of a rule's targets; the others' stay as they are from now on."""

    @abstractmethod
    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything learned, by name."""

    @abstractmethod
    def put_into(self, residual: Residual) -> None:
        """What its file holds of it, on the CPU."""

    def rate(self, stage: Stage) -> float:
        return stage.learning_rate

    def attached(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def begin(self, texts: Texts) -> None:
        """Before a stage's first step: the texts become what was learned until then makes of them."""

    def passes(self, stage: Stage, texts: Texts) -> contextlib.AbstractContextManager[None]:
        """Around all passes of a batch."""
        return contextlib.nullcontext()

    def is_recordable(self, stage: Stage) -> bool:
        """Whether its gradient comes from the UNet's pass alone, which a graph can hold."""
        return True
