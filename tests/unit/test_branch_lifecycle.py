"""Branches come and go: nothing of them is left in the model, whatever happened in between."""

import weakref

import pytest
import torch

pytest.importorskip("ldm")

import longhand
from branch_calls import KINDS, breaking, lag_plan, ones, output, plain_plan, residuals_for
from longhand import inputs, run

from lib_persres.branch import Branches
from lib_persres.masks import PerBlock
from lib_persres.residual import Residual


@pytest.mark.parametrize("kind", KINDS)
def test_detach_leaves_nothing_and_the_output_is_bit_identical(unets, kind):
    unet, arguments = unets(kind), inputs(4)
    residuals = residuals_for(unet, 2)
    base, before = output(unet, arguments), longhand.snapshot(unet)
    branches = Branches(unet, residuals).attach()
    assert longhand.snapshot(unet) != before
    branches.plan = lag_plan(2)
    with torch.no_grad():
        assert not torch.equal(run(unet, *arguments), base)
    branches.detach()
    assert longhand.snapshot(unet) == before
    assert torch.equal(output(unet, arguments), base)
    branches.detach()
    assert longhand.snapshot(unet) == before
    assert branches.plan is None


PLACES = [
    "middle_block.1.transformer_blocks.0.attn2.to_k",  # q was seen, k was not
    "middle_block.1.transformer_blocks.0.attn2.to_out",  # the maps were made, not yet used
    "middle_block.1.proj_out",
    "output_blocks.3.0",  # some blocks are done
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("localized", [True, False])
def test_an_exception_inside_the_forward_leaves_nothing(unets, place, localized):
    unet, arguments = unets(), inputs(4)
    residuals = residuals_for(unet, 2)
    base, before = output(unet, arguments), longhand.snapshot(unet)
    with breaking(unet.get_submodule(place)):
        output(unet, arguments, residuals, lag_plan(2) if localized else plain_plan(4, count=2))
    assert longhand.snapshot(unet) == before
    assert torch.equal(output(unet, arguments), base)


def test_after_an_exception_a_branch_without_a_plan_is_inert_and_with_one_it_works_again(unets):
    unet, arguments = unets(), inputs(4)
    residuals = residuals_for(unet, 2)
    base, lag = output(unet, arguments), output(unet, arguments, residuals, lag_plan(2))
    with Branches(unet, residuals) as branches, torch.no_grad():
        for place in PLACES:
            branches.plan = lag_plan(2)
            with breaking(unet.get_submodule(place)):
                run(unet, *inputs(4, seed=7))
            branches.plan = None
            assert torch.equal(run(unet, *arguments), base)
            branches.plan = lag_plan(2)
            assert torch.equal(run(unet, *arguments), lag)


def test_attach_twice_is_attach_once(unets):
    unet, arguments = unets(), inputs(4)
    residuals = residuals_for(unet, 2)
    base, before = output(unet, arguments), longhand.snapshot(unet)
    once = output(unet, arguments, residuals, lag_plan(2))
    branches = Branches(unet, residuals).attach()
    hooks = {name: {kind: len(found) for kind, found in m[2].items()} for name, m in longhand.snapshot(unet)[0].items()}
    branches.attach()
    again = {name: {kind: len(found) for kind, found in m[2].items()} for name, m in longhand.snapshot(unet)[0].items()}
    assert again == hooks and any(hooks.values())
    branches.plan = lag_plan(2)
    with torch.no_grad():
        assert torch.equal(run(unet, *arguments), once)
    branches.detach()
    assert longhand.snapshot(unet) == before
    assert torch.equal(output(unet, arguments), base)


def test_foreign_hooks_survive_a_detach(unets):
    unet = unets()
    calls = []
    target = longhand.transformers(unet)["middle_block.1"]
    handles = [
        module.register_forward_hook(lambda *_: calls.append(1))
        for module in (target.proj_out, target.transformer_blocks[0].attn2.to_q)
    ]
    before = longhand.snapshot(unet)
    try:
        output(unet, inputs(2), residuals_for(unet, 1), plain_plan(2))
        assert longhand.snapshot(unet) == before and len(calls) == 2
    finally:
        for handle in handles:
            handle.remove()


def test_a_finished_forward_keeps_no_maps(unets):
    unet = unets()
    seen = []

    def binarize(maps):
        seen.append(weakref.ref(maps))
        return torch.ones_like(maps)

    with Branches(unet, residuals_for(unet, 1), PerBlock(binarize)) as branches, torch.no_grad():
        branches.plan = lag_plan(1)
        run(unet, *inputs(4))
        assert len(seen) == len(longhand.transformers(unet)) and not any(maps() is not None for maps in seen)


def test_of_a_residual_of_some_blocks_no_other_blocks_maps_are_made(unets):
    unet = unets()
    (residual,) = residuals_for(unet, 1)
    target = "middle_block.1.proj_out"
    mask, seen = ones(), []
    mask.see = lambda view, maps: seen.append(view.block)
    mask.gate = lambda view: torch.ones(view.shape)
    with Branches(unet, [Residual({target: residual.factors[target]})], mask) as branches, torch.no_grad():
        branches.plan = lag_plan(1)
        run(unet, *inputs(4))
    assert seen == ["middle_block.1"]
