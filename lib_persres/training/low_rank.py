"""What a stage learns, as factors: ΔW = up·down, added by the branches that draw with it later."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from ..branch import Branches
from ..masks import IN_ONE_PASS
from ..plan import Plan
from ..residual import Factors, Residual, rank_of
from ..unet import find_targets
from .learned import Learned
from .recipe import Recipe


class LowRank(Learned):
    """The factors of every target of a rule.

    mask: LAG's, one of `masks.IN_ONE_PASS`.
    """

    def __init__(
        self,
        unet: nn.Module,
        rule: str,
        rank: str,
        generator: torch.Generator,
        device: torch.device,
        mask: str = "median",
    ):
        start = Residual.initialise(unet, rank, generator, targets=rule)
        self._unet = unet
        self._factors = {
            name: Factors(*(nn.Parameter(part.to(device)) for part in (f.down, f.up)))
            for name, f in start.factors.items()
        }
        self._branches = Branches(unet, [Residual(self._factors)], IN_ONE_PASS[mask]())

    @classmethod
    def of(cls, recipe: Recipe, unet: nn.Module, generator: torch.Generator, device: torch.device) -> LowRank:
        return cls(unet, recipe.targets, recipe.rank, generator, device, recipe.mask)

    @staticmethod
    def numbers(unet: nn.Module, rule: str, rank: str) -> int:
        return sum(rank_of(rank, min(target.widths)) * sum(target.widths) for target in find_targets(unet, rule))

    @property
    def plan(self) -> Plan | None:
        return self._branches.plan

    @plan.setter
    def plan(self, plan: Plan | None) -> None:
        if plan is not None:
            self._branches.begin(0, None)  # to a mask each pass is a sampling of its own
        self._branches.plan = plan

    def weights(self, rule: str) -> list[nn.Parameter]:
        paths = {target.path for target in find_targets(self._unet, rule)}
        for path, f in self._factors.items():
            for part in (f.down, f.up):
                part.requires_grad_(path in paths)
        return [part for path, f in self._factors.items() if path in paths for part in (f.down, f.up)]

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        with self._branches:
            yield

    def tensors(self) -> dict[str, torch.Tensor]:
        return {f"{path}.{side}": getattr(f, side) for path, f in self._factors.items() for side in ("down", "up")}

    def put_into(self, residual: Residual) -> None:
        residual.factors.update(
            (path, Factors(*(part.detach().to("cpu", copy=True) for part in (f.down, f.up))))
            for path, f in self._factors.items()
        )
