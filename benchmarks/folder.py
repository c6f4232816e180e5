"""How long a folder of 10,000 residuals takes: its first refresh, the next ones, a name that is not there, cards."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from lib_persres.errors import PersresError
from lib_persres.residual import Factors, Metadata, Residual
from lib_persres.residual_folder import ResidualFolder

FILES = 10_000
BLOCKS = 16
"""As many as SD1 has; the header of a small file then is that of a real one."""


def figures() -> dict:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _fill(folder)
        # the best of three, each the first one of its own
        folders = [ResidualFolder(lambda: folder) for _ in range(3)]
        first, residuals = min(_seconds(residuals.refresh) for residuals in folders), folders[-1]
        again = _seconds(residuals.refresh)
        missing = max(_seconds(lambda name=name: _miss(residuals, name)) for name in ("concept00x500", "unlike any"))
        outlines = _seconds(lambda: [Residual.outline(entry.path) for entry in residuals.entries])
    note = f"again {again:.2f} s, a missing name {missing * 1000:.1f} ms, the outlines for all cards {outlines:.1f} s"
    return {"folder.refresh_10000": (round(first, 2), note)}


def _fill(folder: Path) -> None:
    factors = {f"input_blocks.{i}.1.proj_out": Factors(torch.ones(1, 8), torch.ones(8, 1)) for i in range(BLOCKS)}
    metadata = Metadata("rex", "olis", "dog", recipe={"name": "paper", "steps": 150}, image_hashes=["00" * 32] * 5)
    Residual(factors, metadata).save(folder / "first.safetensors")
    data = (folder / "first.safetensors").read_bytes()
    (folder / "first.safetensors").unlink()
    for index in range(FILES):
        (folder / f"concept{index:05}.safetensors").write_bytes(data)


def _seconds(do: Callable[[], object]) -> float:
    begun = time.perf_counter()
    do()
    return time.perf_counter() - begun


def _miss(residuals: ResidualFolder, name: str) -> None:
    try:
        residuals.find(name)
    except PersresError:
        return
    raise AssertionError(f"{name} was found")
