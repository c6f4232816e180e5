"""What moves a host's models, and trainings that are compared across it."""

import os

import pytest
import torch
from checkout import FLAGS, HOST
from trainings import submit, wait

from lib_persres.residual import Residual

SWAPPED = "--always-no-vram" in FLAGS
"""Whether the host keeps no whole model on the card, so that no training is possible."""
EXACT = "--always-cpu" in FLAGS or "--pytorch-deterministic" in FLAGS
LONG = 60 if "--always-cpu" in FLAGS else 1000
"""Steps, so many that a training is still at work when it is looked at."""
trains = pytest.mark.skipif(SWAPPED, reason="This host's flags leave no training.")


def unload(host):
    host.post("/sdapi/v1/unload-checkpoint")


def reload(host):
    if HOST == "a1111":
        host.post("/sdapi/v1/reload-checkpoint")


def alike(a: Residual, b: Residual) -> float:
    """The cosine of what was learned."""
    ups = [torch.cat([f.up.flatten() for f in each.factors.values()]) for each in (a, b)]
    return torch.nn.functional.cosine_similarity(*ups, 0).item()


def learned(host, photos, name, **changes) -> Residual:
    """A residual, whose file goes: the next training gets the same identifier."""
    status = wait(host, submit(host, photos, name, **changes))
    assert status["state"] == "finished", status
    found = Residual.load(status["file"])
    os.unlink(status["file"])
    return found
