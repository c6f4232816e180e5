"""How a batch's gradients are computed; no card is needed for it."""

import contextlib
from types import SimpleNamespace

import torch

from lib_persres.training import execution


class Gradients:
    recordable, weights = True, ()

    def __call__(self, *batch):
        raise AssertionError("the recorded step is to be taken")


def test_a_recorded_step_is_recorded_again_where_the_host_moved_the_weights(monkeypatch):
    """A replay reads the memory that they had."""
    unet, places = torch.nn.Linear(2, 2), []

    def recorded(compute, inputs, weights, notes):
        places.append(unet.weight.data_ptr())
        return lambda *batch: torch.tensor(float(len(places)))

    monkeypatch.setattr(execution, "recorded", recorded)
    host = SimpleNamespace(device=SimpleNamespace(type="cuda"), stays=True, unet=unet)
    steps = execution.Execution(host, SimpleNamespace(step=contextlib.nullcontext), None, True, [])
    gradients, batch = Gradients(), [torch.zeros(2, 1)]
    assert [steps.loss(gradients, batch) for _ in range(2)] == [1, 1]
    before = unet.weight.data  # so that its memory is not given again
    unet.to(torch.float64)
    assert [steps.loss(gradients, batch) for _ in range(2)] == [2, 2]
    assert places[0] == before.data_ptr() != places[1] == unet.weight.data_ptr()
