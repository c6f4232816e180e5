"""Changes that are no factors: matrices of their own and rotations, and the factors that their files hold."""

import copy

import longhand
import pytest
import torch
from branch_calls import plain_plan
from rounding import NETWORK, PRODUCT, assert_near, relative
from torch.func import functional_call
from trainer_bench import steps

from lib_persres.branch import Branches
from lib_persres.concepts import cannot_confine
from lib_persres.errors import PersresError
from lib_persres.residual import Residual
from lib_persres.training.recipe import Recipe, Stage
from lib_persres.training.trainer import Trainer
from lib_persres.training.whole import Full, Orthogonal, nearest, rotation

ATTENTIONS = "attn1+attn2"


def make(sd, photos, form, targets, rank="1m", count=3, options=None, **stage):
    stage = Stage(targets, rank, count, **{"batch": 2, "learning_rate": 1e-2, **stage})
    recipe = Recipe("test", "a test's", (stage,), crops=1, form=form)
    return Trainer(sd, photos, "rex", "dog", recipe, resolution=16, seed=5, identifier="phol", **(options or {}))


def changed(unet, made):
    """A copy with W + ΔW."""
    unet = copy.deepcopy(unet)
    for target in made._targets:
        weight = unet.get_submodule(target.path).weight
        weight.data += made._delta(target, made._learned[target.path].detach()).view_as(weight)
    return unet


@pytest.mark.parametrize("kind, rule", [(Full, "unet"), (Full, "kv"), (Orthogonal, ATTENTIONS)])
def test_what_is_learned_acts_as_changed_weights_do_and_only_with_a_plan(sd, kind, rule):
    x, t, context = longhand.inputs(2)
    made = kind(sd.unet, rule, "2", torch.device("cpu"))
    before = sd.unet(x, t, context)
    generator = torch.Generator().manual_seed(0)
    for parameter in made._learned.values():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.03
    with made.attached():
        assert torch.equal(sd.unet(x, t, context), before)
        made.plan = object()
        acting = sd.unet(x, t, context)
    assert torch.equal(sd.unet(x, t, context), before)
    assert_near(acting, changed(sd.unet, made)(x, t, context), NETWORK)
    assert relative(acting, before) > 1e-2


def test_a_rotation_keeps_lengths_and_starts_as_the_identity():
    assert torch.equal(rotation(torch.zeros(3, 4, 4)), torch.eye(4).expand(3, 4, 4))
    r = rotation(torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)).double().float())
    assert_near(r @ r.transpose(1, 2), torch.eye(8).expand(3, 8, 8), PRODUCT)
    assert torch.linalg.det(r).tolist() == pytest.approx([1, 1, 1], rel=8 * PRODUCT)


@pytest.mark.parametrize("options", [{}, {"micro_batch": 1}, {"checkpointing": True}], ids=str)
def test_a_matrixs_gradient_is_its_weights(sd, photos, objectives, options):
    trainer = make(sd, photos, "full", "unet", count=1, options=options)
    steps(trainer, 1)
    z_t, t, context, target, _ = (torch.cat(parts) for parts in zip(*objectives))
    weights = {
        f"{path}.weight": sd.unet.get_submodule(path).weight.clone().requires_grad_()
        for path in trainer.learned[0]._learned
    }
    ((functional_call(sd.unet, weights, (z_t, t, context)) - target) ** 2).mean().backward()
    largest = max(weight.grad.abs().max() for weight in weights.values())
    for path, parameter in trainer.learned[0]._learned.items():
        grad = weights[f"{path}.weight"].grad
        assert (parameter.grad - grad).abs().max() < 8 * NETWORK * grad.abs().max() + NETWORK * largest


@pytest.mark.parametrize("form, rule", [("full", "kv"), ("full", "unet"), ("orthogonal", ATTENTIONS)])
def test_a_file_of_full_rank_draws_what_was_learned(sd, photos, form, rule):
    before = longhand.snapshot(sd.unet)
    trainer = make(sd, photos, form, rule)
    losses = steps(trainer, 3)
    assert longhand.snapshot(sd.unet) == before and all(losses)
    residual = trainer.residual()
    assert residual.metadata.truncation < NETWORK
    residual.check(sd.unet)
    x, t, context = longhand.inputs(2)
    with Branches(sd.unet, [residual]) as branches, torch.no_grad():
        branches.plan = plain_plan(2)
        drawn = sd.unet(x, t, context)
    assert_near(drawn, changed(sd.unet, trainer.learned[0])(x, t, context), 2 * NETWORK)  # its factors round, too
    assert relative(drawn, sd.unet(x, t, context)) > 1e-3


@pytest.mark.parametrize("shape, rank", [((12, 30), 4), ((30, 12), 12), ((700, 530), 8)])
def test_the_nearest_factors_lose_the_smaller_singular_values_and_no_more(shape, rank):
    generator = torch.Generator().manual_seed(1)
    few = torch.randn(shape[0], 40, generator=generator) @ torch.diag(0.7 ** torch.arange(40.0))
    delta = few @ torch.randn(40, shape[1], generator=generator)
    factors = nearest(delta, rank)
    assert factors.rank == rank
    lost = torch.linalg.svdvals(delta)[rank:].norm()
    assert (delta - factors.delta()).norm().item() == pytest.approx(lost.item(), rel=1e-2, abs=1e-3)
    assert torch.equal(factors.delta(), nearest(delta, rank).delta())


def test_a_truncated_file_tells_what_it_lost(sd, photos):
    trainer = make(sd, photos, "full", "unet", rank="2")
    steps(trainer, 3)
    residual = trainer.residual()
    learned = trainer.learned[0]
    lost = whole = 0.0
    for target in learned._targets:
        delta = learned._delta(target, learned._learned[target.path].detach())
        lost += (delta - residual.factors[target.path].delta()).square().sum().item()
        whole += delta.square().sum().item()
    assert 0.05 < residual.metadata.truncation < 1
    assert residual.metadata.truncation == pytest.approx((lost / whole) ** 0.5, rel=1e-4)


def test_what_factors_learn_loses_nothing(sd, photos):
    trainer = make(sd, photos, "low-rank", ATTENTIONS, rank="2")
    steps(trainer, 1)
    assert trainer.residual().metadata.truncation is None


@pytest.mark.parametrize("form, rule", [("full", "embedding+unet"), ("orthogonal", ATTENTIONS)])
def test_such_a_training_is_resumed_bit_identically(sd, photos, tmp_path, form, rule):
    whole = make(sd, photos, form, rule, keep=1)
    losses = steps(whole, 3)
    first = make(sd, photos, form, rule, keep=1)
    steps(first, 2)
    first.save_state(tmp_path / "state")
    again = make(sd, photos, form, rule, keep=1)
    again.load_state(tmp_path / "state")
    assert steps(again, 1) == losses[2:]
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, again.tensors()[name])


def test_a_half_models_small_changes_are_not_rounded_away(sd, photos):
    x, t, context = longhand.inputs(2)
    moved = []
    for options in ({}, {"precision": "bfloat16"}):
        trainer = make(sd, photos, "full", "unet", options=options, learning_rate=1e-5, count=4)
        steps(trainer, 4)
        moved.append((changed(sd.unet, trainer.learned[0])(x, t, context) - sd.unet(x, t, context)).flatten())
    assert torch.nn.functional.cosine_similarity(*moved, dim=0) > 0.8


@pytest.mark.parametrize(
    "values, said",
    [
        ({"form": "dense"}, "form can be low-rank, full, orthogonal"),
        ({"form": "orthogonal", "stages": (Stage("attn2+proj_out"),)}, "attn1, kv and attn2"),
        ({"form": "full", "stages": (Stage("kv", localized=1),)}, "which LAG cannot confine"),
        ({"stages": (Stage(rank="2"), Stage(rank="4"))}, "agree in their rank"),
        ({"stages": ()}, "no stages"),
        ({"start": "noun"}, "start can be identifier, class"),
    ],
)
def test_recipes_that_cannot_be_are_refused(values, said):
    with pytest.raises(PersresError, match=said):
        Recipe("test", "a test's", **values)


def test_a_diverged_change_is_not_saved(sd, photos):
    trainer = make(sd, photos, "full", "kv")
    next(iter(trainer.learned[0]._learned.values())).data.fill_(float("nan"))
    with pytest.raises((PersresError, torch.linalg.LinAlgError)):
        trainer.residual()


def test_a_residual_of_the_whole_unet_survives_its_file(sd, photos, tmp_path):
    trainer = make(sd, photos, "full", "unet", rank="2")
    steps(trainer, 1)
    path = tmp_path / "rex.safetensors"
    trainer.residual().save(path)
    loaded = Residual.load(path)
    loaded.check(sd.unet)
    assert loaded.metadata.truncation == trainer.residual().metadata.truncation
    assert "whole UNet" in cannot_confine("rex", loaded.metadata, early=False)
