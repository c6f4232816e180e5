"""Weights of torch.inference_mode, lent to a training; no WebUI is needed for it."""

import pytest
import torch
from torch import nn

from lib_persres.webui.hosts.inference import plain_tensors


@pytest.fixture
def module():
    with torch.inference_mode():
        made = nn.Sequential(nn.Conv2d(4, 32, 1), nn.GroupNorm(32, 32), nn.Conv2d(32, 4, 1))
        made.register_buffer("scale", torch.tensor(2.0))
    return made


def kept(module):
    return [(id(tensor), tensor.clone()) for tensor in (*module.parameters(), *module.buffers())]


def test_within_it_autograd_goes_through_and_after_it_the_modules_own_are_back(module):
    before = kept(module)
    x = torch.randn(1, 4, 2, 2, requires_grad=True)
    with pytest.raises(RuntimeError):
        module(x).sum().backward()
    with plain_tensors([module]):
        assert not any(tensor.is_inference() or tensor.requires_grad for tensor in module.parameters())
        assert module[0].weight.data_ptr() == dict(module.named_parameters())["0.weight"].data_ptr()
        (module(x) * module.scale).sum().backward()
        assert x.grad is not None and x.grad.any()
    after = kept(module)
    assert [tag for tag, _ in before] == [tag for tag, _ in after]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(before, after, strict=True))


def test_they_are_back_after_an_error_and_nothing_was_copied(module):
    own = module[0].weight
    with pytest.raises(ArithmeticError), plain_tensors([module]):
        assert module[0].weight is not own and module[0].weight.data_ptr() == own.data_ptr()
        raise ArithmeticError
    assert module[0].weight is own


def test_what_the_host_moved_meanwhile_stays_where_it_is(module):
    with plain_tensors([module]):
        moved = module[2].weight = nn.Parameter(module[2].weight.clone(), requires_grad=False)
    assert module[2].weight is moved and module[0].weight.is_inference()
