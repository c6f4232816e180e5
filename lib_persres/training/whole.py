"""What a stage learns, as changes that are no product of two factors: a matrix of its own (DreamBooth, Custom
Diffusion), or a rotation of the target's input (OFT). Their files hold the nearest factors of a rank."""

from __future__ import annotations

import contextlib
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import PersresError
from ..residual import Factors, Residual, rank_of
from ..unet import Target, find_targets
from .frozen import forward_as
from .learned import Learned
from .recipe import Recipe

Forward = Callable[[torch.Tensor], torch.Tensor]

EXACT = 512
"""Up to this smaller side a matrix is decomposed exactly, above it by random projections."""
BLOCKS = 4
"""Into so many blocks OFT cuts a rotation (r of its paper, section 3)."""


class Whole(Learned):
    """A change of every target of a rule, begun as none; a plan's gates and strengths mean nothing to it."""

    def __init__(self, unet: nn.Module, rule: str, rank: str, device: torch.device):
        self._unet, self._rank = unet, rank
        self._targets = find_targets(unet, rule)
        self._learned = {
            target.path: nn.Parameter(torch.zeros(self._shape(target), device=device)) for target in self._targets
        }

    @classmethod
    def of(cls, recipe: Recipe, unet: nn.Module, generator: torch.Generator, device: torch.device) -> Whole:
        return cls(unet, recipe.targets, recipe.rank, device)

    @classmethod
    def numbers(cls, unet: nn.Module, rule: str, rank: str) -> int:
        return sum(math.prod(cls._shape(target)) for target in find_targets(unet, rule))

    @staticmethod
    @abstractmethod
    def _shape(target: Target) -> tuple[int, ...]:
        """Of what learns; zeros are no change."""

    @abstractmethod
    def _forward(self, target: Target, learned: nn.Parameter, x: torch.Tensor, own: Forward) -> torch.Tensor:
        """The changed target's output. own: its forward without the change."""

    @abstractmethod
    def _delta(self, target: Target, learned: torch.Tensor) -> torch.Tensor:
        """ΔW as a matrix (m_out, m_in), fp32."""

    def weights(self, rule: str) -> list[nn.Parameter]:
        paths = {target.path for target in find_targets(self._unet, rule)}
        for path, parameter in self._learned.items():
            parameter.requires_grad_(path in paths)
        return [parameter for path, parameter in self._learned.items() if path in paths]

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for target in self._targets:
                stack.enter_context(forward_as(target.module, self._changed(target)))
            yield

    def _changed(self, target: Target) -> Forward:
        def forward(x: torch.Tensor) -> torch.Tensor:
            if self.plan is None:
                return own(x)
            return self._forward(target, self._learned[target.path], x, own)

        own = target.module.forward
        return forward

    def tensors(self) -> dict[str, torch.Tensor]:
        return dict(self._learned)

    @torch.no_grad()
    def put_into(self, residual: Residual) -> None:
        """The nearest factors, and ‖ΔW - up·down‖ / ‖ΔW‖ over all targets."""
        lost = whole = 0.0
        for target in self._targets:
            delta = self._delta(target, self._learned[target.path].detach().float())
            factors = nearest(delta, rank_of(self._rank, min(delta.shape)))
            lost += (delta - factors.delta()).double().square().sum().item()
            whole += delta.double().square().sum().item()
            residual.factors[target.path] = Factors(factors.down.cpu(), factors.up.cpu())
        residual.metadata.truncation = math.sqrt(lost / whole) if whole else 0.0


class Full(Whole):
    """ΔW itself. Biases and norms stay as they are."""

    @staticmethod
    def _shape(target: Target) -> tuple[int, ...]:
        return tuple(target.module.weight.shape)

    def _forward(self, target: Target, learned: nn.Parameter, x: torch.Tensor, own: Forward) -> torch.Tensor:
        module = target.module
        if module.weight.dtype == torch.float32:
            return _apply(module, x, module.weight + learned, module.bias)
        # a half's sum would round small changes away
        return own(x) + _apply(module, x.to(module.weight.dtype), learned.to(module.weight.dtype), None)

    def _delta(self, target: Target, learned: torch.Tensor) -> torch.Tensor:
        return learned.flatten(1)


class Orthogonal(Whole):
    """W' = W Rᵀ with R = (I + S)(I - S)⁻¹ and S = (Q - Qᵀ)/2 in blocks along the input (OFT, equation 3)."""

    @staticmethod
    def _shape(target: Target) -> tuple[int, ...]:
        width = target.widths[0]
        blocks = next(count for count in range(BLOCKS, 0, -1) if width % count == 0)
        return blocks, width // blocks, width // blocks

    def _forward(self, target: Target, learned: nn.Parameter, x: torch.Tensor, own: Forward) -> torch.Tensor:
        module = target.module
        blocks = x.to(module.weight.dtype).unflatten(-1, learned.shape[:2])
        turned = torch.einsum("...kj,kji->...ki", blocks, rotation(learned).to(blocks.dtype))  # (W Rᵀ) x = W (Rᵀ x)
        return F.linear(turned.flatten(-2), module.weight, module.bias)

    def _delta(self, target: Target, learned: torch.Tensor) -> torch.Tensor:
        weight = target.module.weight.detach().float().to(learned.device)
        parts = weight.unflatten(1, learned.shape[:2])
        return torch.einsum("oki,kji->okj", parts, rotation(learned)).flatten(1) - weight


def rotation(q: torch.Tensor) -> torch.Tensor:
    """Cayley's transform of each block of q (k, n, n): a rotation, the identity where q is symmetric."""
    skew = (q - q.transpose(-1, -2)) / 2
    one = torch.eye(q.shape[-1], device=q.device)
    # not `solve`, which waits for the card to say whether there is a solution: I - S always has an inverse
    return torch.linalg.solve_ex(one - skew, one + skew).result


def nearest(delta: torch.Tensor, rank: int) -> Factors:
    """The factors of a rank whose product is nearest to ΔW (m_out, m_in), by its singular values."""
    if min(delta.shape) <= EXACT:
        u, s, vh = torch.linalg.svd(delta, full_matrices=False)
    else:
        with torch.random.fork_rng(devices=[delta.device] if delta.is_cuda else []):
            torch.manual_seed(0)  # the same change gives the same file
            u, s, v = torch.svd_lowrank(delta, q=min(rank + 16, *delta.shape), niter=4)
        vh = v.T
    root = s[:rank].sqrt()
    if not root.isfinite().all():
        raise PersresError("What was learned is no longer finite: lower the learning rate.")
    return Factors((root[:, None] * vh[:rank]).contiguous(), (u[:, :rank] * root).contiguous())


def _apply(module: nn.Module, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if hasattr(module, "in_features"):
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, module.stride, module.padding, module.dilation, module.groups)
