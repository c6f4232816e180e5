"""What a step of training keeps in memory on full-size UNets, counted without weights: the tensors that autograd holds.

No kernel runs: torch's fake tensors have shapes alone, so a machine without a card tells what one would hold. Counted
are the frozen UNet's weights in half precision, what the forward pass keeps for the backward one (each storage once),
and, where blocks are computed again, what the largest of them keeps meanwhile. Not counted: what is made and dropped
within a layer, the card's own context (about 0.5 GB) and what its allocator leaves unused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from lib_persres.branch import Branches
from lib_persres.concepts import Use
from lib_persres.plan import Plans, guidance_rows
from lib_persres.residual import Residual
from lib_persres.standalone.full_sizes import UNETS
from lib_persres.standalone.modules import build_unet
from lib_persres.training.frozen import lean
from lib_persres.unet import find_blocks

GB = 10**9
TOKENS = 77
SIDES = {"SD1": 64, "SD2": 96, "SDXL": 128}
"""Of the latents of pictures of the families' own sizes: 512, 768, 1024."""


class Kept:
    """Bytes of the storages that autograd holds, each once; those of the weights are not counted."""

    def __init__(self, weights: torch.nn.Module):
        self._own = {weight.untyped_storage()._cdata for weight in weights.parameters()}
        self._seen: list[torch.Tensor] = []
        self.bytes = 0

    @contextlib.contextmanager
    def counting(self) -> Iterator[Kept]:
        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._own:
                self._own.add(storage._cdata)
                self._seen.append(tensor)  # alive, so that no other storage takes its place
                self.bytes += storage.nbytes()
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            yield self


def blocks_of(unet: torch.nn.Module) -> list[torch.nn.Module]:
    """What `training.frozen.checkpointed` computes again."""
    residual = [module for module in unet.modules() if hasattr(module, "in_layers") and hasattr(module, "out_layers")]
    return [block.module for block in find_blocks(unet)] + residual


def count(family: str, rows: int, targets: str = "proj_out") -> dict[str, float]:
    """GB: weights, kept, and checkpointed, what is kept at most where blocks are computed again."""
    with FakeTensorMode():
        torch.set_default_dtype(torch.bfloat16)
        try:
            unet = build_unet(UNETS[family]).eval().requires_grad_(False)
        finally:
            torch.set_default_dtype(torch.float32)
        weights = sum(weight.numel() * weight.element_size() for weight in unet.parameters())
        residual = Residual.initialise(unet, targets=targets)
        for factors in residual.factors.values():
            factors.down.requires_grad_()
            factors.up.requires_grad_()
        params, side = UNETS[family], SIDES[family]
        x = torch.randn(rows, 4, side, side, dtype=torch.bfloat16)
        told = {"context": torch.randn(rows, TOKENS, params["context_dim"], dtype=torch.bfloat16)}
        if "adm_in_channels" in params:
            told["y"] = torch.randn(rows, params["adm_in_channels"], dtype=torch.bfloat16)
        kept, within = Kept(unet), []
        plan = Plans([[Use(1.0, False)]] * rows).plan(guidance_rows(rows, guided=False), TOKENS, x.device)
        with contextlib.ExitStack() as stack:
            branches = stack.enter_context(Branches(unet, [residual]))
            branches.plan = plan
            stack.enter_context(lean(unet))
            for block in blocks_of(unet):
                stack.enter_context(_watched(block, kept, within))
            with kept.counting():
                unet(x, timesteps=torch.zeros(rows, dtype=torch.long), **told)
    outside = kept.bytes - sum(inside for inside, _ in within)
    inputs = sum(given for _, given in within)
    largest = max(inside for inside, _ in within)
    return {
        "weights": weights / GB,
        "kept": kept.bytes / GB,
        "checkpointed": (outside + inputs + largest) / GB,
    }


@contextlib.contextmanager
def _watched(block: torch.nn.Module, kept: Kept, within: list[tuple[int, int]]) -> Iterator[None]:
    """What is kept inside of a block, and its input's bytes."""
    begun: list[int] = []
    before = block.register_forward_pre_hook(lambda module, args: begun.append(kept.bytes))

    def after(module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        within.append((kept.bytes - begun.pop(), args[0].numel() * args[0].element_size()))

    behind = block.register_forward_hook(after)
    try:
        yield
    finally:
        before.remove()
        behind.remove()


def figures() -> dict[str, tuple[float, str]]:
    """SD1's batch of four rows at once, SDXL's one row after another (the recipes' micro-batch)."""
    found = {}
    for family, rows in (("SD1", 4), ("SDXL", 1)):
        of, all_rows = count(family, rows), count(family, 4)
        note = (
            f"{8 * SIDES[family]}×{8 * SIDES[family]}, {rows} row{'s' * (rows > 1)} at a time, bfloat16: weights "
            f"{of['weights']:.2f} GB, kept {of['kept']:.2f}; 4 rows at a time "
            f"{all_rows['weights'] + all_rows['kept']:.2f} in all, "
            f"{all_rows['weights'] + all_rows['checkpointed']:.2f} with checkpointing"
        )
        found[f"train.memory_{family.lower()}"] = (round(of["weights"] + of["kept"], 2), note)
    return found
