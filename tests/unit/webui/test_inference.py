"""Weights of torch.inference_mode, lent to a training; no WebUI is needed for it."""

import pytest
import torch
from torch import nn

from lib_persres.webui.hosts.inference import plain_again, plain_tensors


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
    own, place = module[0].weight, module[0].weight.data_ptr()
    with pytest.raises(ArithmeticError), plain_tensors([module]):
        assert module[0].weight is not own and module[0].weight.data_ptr() == place
        raise ArithmeticError
    assert module[0].weight is own and own.data_ptr() == place


def test_what_the_host_frees_meanwhile_is_free(module):
    own = module[0].weight
    with plain_tensors([module]):
        assert own.untyped_storage().nbytes() == 0
        move(module, torch.float64)
        assert own.untyped_storage().nbytes() == 0
    assert module[0].weight is own and own.dtype == torch.float64


def test_what_the_host_put_in_its_place_meanwhile_stays(module):
    with plain_tensors([module]):
        put = module[2].weight = nn.Parameter(module[2].weight.clone(), requires_grad=False)
    assert module[2].weight is put and module[0].weight.is_inference()


def move(module, dtype):
    """Another type is a move that any processor can make."""
    with torch.inference_mode():
        module.to(dtype)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_what_the_host_moves_meanwhile_learns_and_comes_back_as_its_own_kind(module, times):
    before = kept(module)
    x = torch.randn(1, 4, 2, 2, requires_grad=True)
    with plain_tensors([module]):
        for count in range(times):
            move(module, torch.float32 if count % 2 else torch.float64)
            assert module[0].weight.is_inference()
            plain_again([module])
        (module(x.to(module[0].weight.dtype)) * module.scale).sum().backward()
    assert x.grad is not None and x.grad.any()
    after = kept(module)
    of_parameters = len(list(module.parameters()))
    assert [tag for tag, _ in before][:of_parameters] == [tag for tag, _ in after][:of_parameters]
    assert all(torch.equal(a.double(), b.double()) for (_, a), (_, b) in zip(before, after, strict=True))
    move(module, torch.float32)
    with torch.inference_mode():
        assert module(x).isfinite().all() and all(tensor.is_inference() for tensor in module.parameters())


def test_what_was_made_in_inference_mode_is_not_changed_outside_of_a_training(module):
    plain_again([module])
    assert all(tensor.is_inference() for tensor in module.parameters())
