"""Training through the branches: the gradients are those of merged weights, and go to the factors alone."""

import pytest
import torch

pytest.importorskip("ldm")

from branch_calls import KINDS, STRENGTHS, output, plain_plan, residuals_for, strong_plan
from longhand import inputs, make_unet, merged, random_residual, run
from rounding import NETWORK, assert_near, relative
from torch.func import functional_call

from lib_persres.branch import Branches
from lib_persres.residual import Factors, Residual


def trainable(residual, dtype=torch.float64):
    return Residual(
        {
            target: Factors(*(torch.nn.Parameter(t.to(dtype)) for t in (f.down, f.up)))
            for target, f in residual.factors.items()
        }
    )


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_the_gradient_reaches_both_factors_of_every_block_and_nothing_else(kind):
    unet = make_unet(**KINDS[kind]).requires_grad_(True)
    residual = trainable(random_residual(unet, 3), torch.float32)
    unet.requires_grad_(False)
    x, t, context = inputs(2)
    with Branches(unet, [residual]) as branches:
        branches.plan = plain_plan(2)
        loss = run(unet, x, t, context).pow(2).mean()
    loss.backward()
    for f in residual.factors.values():
        assert f.down.grad.abs().max() > 1e-6 and f.up.grad.abs().max() > 1e-6
    assert all(weight.grad is None for weight in unet.parameters())
    assert context.grad is None and x.grad is None


def test_with_up_at_zero_only_up_has_a_gradient_at_first():
    unet = make_unet()
    residual = trainable(Residual.initialise(unet, 3), torch.float32)
    with Branches(unet, [residual]) as branches:
        branches.plan = plain_plan(2)
        run(unet, *inputs(2)).pow(2).mean().backward()
    for f in residual.factors.values():
        assert not f.down.grad.any() and f.up.grad.abs().max() > 1e-6


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_the_gradient_equals_that_of_merged_weights(kind):
    unet = make_unet(**KINDS[kind]).double()
    residual, s = trainable(random_residual(unet, 3)), 0.75  # exact in fp32
    x, t, context = inputs(2, (6, 10))
    x, context = x.double(), context.double()
    wanted = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    with Branches(unet, [residual]) as branches:
        branches.plan = plain_plan(2, s)
        out = run(unet, x, t, context)
        (out - wanted).pow(2).mean().backward()
    mine = {target: (f.down.grad.clone(), f.up.grad.clone()) for target, f in residual.factors.items()}

    factors = trainable(residual).factors
    weights = {}
    for target, f in factors.items():
        weight = unet.get_submodule(target).weight
        weights[f"{target}.weight"] = weight + (s * f.up @ f.down).view_as(weight)
    call = torch.nn.Module()
    call.unet = unet
    call.forward = lambda *arguments: run(unet, *arguments)
    explicit = functional_call(call, {f"unet.{name}": w for name, w in weights.items()}, (x, t, context))
    (explicit - wanted).pow(2).mean().backward()
    assert relative(out, explicit) < 1e-10
    for target, f in factors.items():
        assert relative(mine[target][0], f.down.grad) < 1e-10
        assert relative(mine[target][1], f.up.grad) < 1e-10


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_merged_weights_and_branch_agree(unets, kind, count):
    unet, arguments = unets(kind), inputs(2, (6, 10))
    residuals, strengths = residuals_for(unet, count), STRENGTHS[0][:count]
    plan = strong_plan([strengths] * 2)
    branch = output(unet, arguments, residuals, plan)
    explicit = output(merged(unet, residuals, strengths), arguments)
    assert_near(branch, explicit, NETWORK)
    assert relative(branch, output(unet, arguments)) > 1e-2


def test_factors_that_an_optimizer_changed_act_in_the_next_forward():
    unet, arguments = make_unet(), inputs(2)
    residual = trainable(random_residual(unet, 3), torch.float32)
    with Branches(unet, [residual]) as branches:
        branches.plan = plain_plan(2)
        run(unet, *arguments).sum().backward()
        with torch.no_grad():
            for f in residual.factors.values():
                f.up.zero_()
        assert torch.equal(run(unet, *arguments), run(make_unet(), *arguments))


def test_a_look_without_gradients_between_two_training_steps_changes_nothing():
    unet = make_unet()
    residual = trainable(random_residual(unet, 3), torch.float32)
    arguments = inputs(2)
    with Branches(unet, [residual]) as branches:
        branches.plan = plain_plan(2)
        with torch.no_grad():
            run(unet, *arguments)
        out = run(unet, *arguments)
        assert out.requires_grad
        with torch.no_grad():
            for f in residual.factors.values():
                f.up.zero_()
            assert torch.equal(run(unet, *arguments), output(unet, arguments))
