"""What is counted by shapes alone is what autograd holds of real numbers."""

import pytest
import torch

from benchmarks import training_memory
from lib_persres.standalone import full_sizes
from lib_persres.training.frozen import checkpointed, lean

SMALL = {**full_sizes.SDXL_UNET, "model_channels": 32, "num_head_channels": 8, "context_dim": 32}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(full_sizes.UNETS, "SDXL", {**SMALL, "adm_in_channels": 1600, "transformer_depth": [1, 1, 2]})
    monkeypatch.setitem(training_memory.SIDES, "SDXL", 16)


def held(again: bool) -> int:
    """Of a real forward pass; by blocks that are computed again, what the pass alone holds."""
    unet = training_memory.build_unet(full_sizes.UNETS["SDXL"]).to(torch.bfloat16).eval().requires_grad_(False)
    kept = training_memory.Kept(unet)
    x = torch.randn(2, 4, 16, 16, dtype=torch.bfloat16, requires_grad=True)
    told = {"context": torch.randn(2, 77, 32, dtype=torch.bfloat16), "y": torch.randn(2, 1600, dtype=torch.bfloat16)}
    with lean(unet), kept.counting():
        if not again:
            unet(x, timesteps=torch.zeros(2, dtype=torch.long), **told)
        else:
            with checkpointed(unet):
                unet(x, timesteps=torch.zeros(2, dtype=torch.long), **told)
    return kept.bytes


def test_a_count_by_shapes_is_that_of_numbers():
    """The branches add their own, which are small; what comes before the first of them needs no gradient there."""
    counted = training_memory.GB * training_memory.count("SDXL", 2)["kept"]
    assert 0.85 * held(False) < counted < 1.1 * held(False)


def test_twice_the_rows_keep_twice_as_much_and_blocks_that_are_computed_again_keep_less():
    two, four = (training_memory.count("SDXL", rows) for rows in (2, 4))
    assert two["weights"] == four["weights"]
    assert four["kept"] == pytest.approx(2 * two["kept"], rel=0.1)
    assert two["checkpointed"] < two["kept"] and held(True) < held(False)
