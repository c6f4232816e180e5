"""Targets beside proj_out: a branch on each is what merged weights are; a block's own mask confines proj_out alone."""

import pytest
import torch

pytest.importorskip("ldm")

import longhand
from branch_calls import KINDS, output
from branch_calls import strong_plan as plain_plan
from longhand import inputs, make_unet, merged, run
from rounding import NETWORK, relative
from targets_bench import ATTN2, RULES, random_residual, without
from torch.func import functional_call

from lib_persres.branch import Branches
from lib_persres.concepts import Use, cannot_confine
from lib_persres.errors import PersresError
from lib_persres.plan import Plans, guidance_rows
from lib_persres.residual import Factors, Metadata, Residual
from lib_persres.targets import EVERY, PARTS

NEAR, FAR = NETWORK, 2e-3
"""Of the largest value: what rounding makes in fp32, and less than what any of the residuals here changes."""


STRENGTHS = [[1.0], [0.6]]


def lag_plan(strengths=STRENGTHS, unconditional="mirror", gated=(True, False)):
    """Two images whose concepts have different tokens."""
    uses = [
        [Use(strength, here, (tokens,)) for strength, here in zip(row, gated)]
        for row, tokens in zip(strengths, ((2, 3), (5, 6, 7)))
    ]
    return Plans(uses, unconditional).plan(guidance_rows(2), longhand.TOKENS)


def hooked(unet):
    """Module path -> how many hooks it has."""
    found = {name: len(module._forward_hooks) + len(module._forward_pre_hooks) for name, module in unet.named_modules()}
    return {name: count for name, count in found.items() if count}


# -- merged weights


@pytest.mark.parametrize("rule", PARTS[1:])
@pytest.mark.parametrize("kind", KINDS)
def test_merged_weights_and_branch_agree_on_every_target(unets, kind, rule):
    unet, arguments = unets(kind), inputs(2, (6, 10))
    residual = random_residual(unet, rule)
    branch = output(unet, arguments, [residual], plain_plan([[0.7], [0.7]]))
    assert relative(branch, output(merged(unet, [residual], [0.7]), arguments)) < NEAR
    assert relative(branch, output(unet, arguments)) > FAR


@pytest.mark.parametrize("kind", KINDS)
def test_concepts_with_different_targets_act_together(unets, kind):
    unet, arguments = unets(kind), inputs(2)
    rules = ("proj_out", "kv", "proj_in+kv+proj_out")
    residuals = [random_residual(unet, rule, rank, seed) for seed, (rank, rule) in enumerate(zip((2, 5, 1), rules))]
    strengths = [1.0, 0.7, -0.4]
    branch = output(unet, arguments, residuals, plain_plan([strengths] * 2))
    assert relative(branch, output(merged(unet, residuals, strengths), arguments)) < NEAR
    for left_out in range(3):
        others = [s * (index != left_out) for index, s in enumerate(strengths)]
        assert relative(branch, output(merged(unet, residuals, others), arguments)) > FAR


def test_each_row_has_its_own_strength(unets):
    unet, arguments = unets(), inputs(3)
    residual = random_residual(unet, EVERY)
    result = output(unet, arguments, [residual], plain_plan([[1.0], [0.0], [-0.5]]))
    for row, strength in enumerate((1.0, 0.0, -0.5)):
        assert relative(result[row], output(merged(unet, [residual], [strength]), arguments)[row]) < NEAR
    assert torch.equal(result[1], output(unet, arguments)[1])


# -- LAG


@pytest.mark.parametrize("kind", KINDS)
def test_lag_confines_proj_out_by_the_maps_of_the_changed_model_and_nothing_else(unets, kind):
    unet, arguments = unets(kind), inputs(4, (6, 10), seed=3)
    residual = random_residual(unet, EVERY)
    plan = lag_plan([[0.8], [0.8]])
    lag = output(unet, arguments, [residual], plan)
    # the model whose other targets are merged, with the branch on proj_out alone
    model = merged(unet, [without(residual, ".proj_out")], [0.8])
    rest = without(residual, *(path for path in residual.factors if not path.endswith(".proj_out")))
    assert relative(lag, output(model, arguments, [rest], plan)) < NEAR
    assert relative(lag, output(unet, arguments, [residual], plain_plan([[0.8]] * 4))) > FAR


@pytest.mark.parametrize("rule", ["kv", "proj_in", "attn2"])
def test_what_lag_cannot_confine_acts_everywhere_and_has_a_sentence(unets, rule):
    unet, arguments = unets(), inputs(4)
    residual = random_residual(unet, rule)
    lag = output(unet, arguments, [residual], lag_plan())
    assert torch.equal(lag, output(unet, arguments, [residual], plain_plan(STRENGTHS * 2)))
    sentence = cannot_confine("<persres:rex>", residual.metadata, early=False)
    assert sentence.startswith(f"LAG cannot confine <persres:rex>, which changes {rule}, ")
    assert cannot_confine("<persres:rex>", residual.metadata) is None
    for confined in ("proj_out", "kv+proj_out"):
        for early in (True, False):
            assert cannot_confine("rex", Metadata(targets=confined), early) is None


def test_a_concept_of_keys_and_values_beside_a_localized_one(unets):
    unet, arguments = unets(), inputs(4)
    out, kv = random_residual(unet, "proj_out"), random_residual(unet, "kv", seed=1)
    plan = lag_plan([[*row, 0.6] for row in STRENGTHS])
    both = output(unet, arguments, [out, kv], plan)
    alone = output(merged(unet, [kv], [0.6]), arguments, [out], lag_plan())
    assert relative(both, alone) < NEAR


@pytest.mark.parametrize("rule", ["kv", "proj_in+kv+proj_out"])
def test_the_unconditional_rows_mirror_their_images_or_are_the_bases(unets, rule):
    unet, arguments = unets(), inputs(4)
    residual = random_residual(unet, rule)
    base = output(unet, arguments)
    mirror = output(unet, arguments, [residual], lag_plan())
    of_base = output(unet, arguments, [residual], lag_plan(unconditional="base"))
    assert torch.equal(of_base[2:], base[2:])
    assert relative(of_base[:2], mirror[:2]) < NEAR
    assert relative(mirror[2:], base[2:]) > FAR


# -- nothing is left, and nothing more than needed


@pytest.mark.parametrize("rule", RULES)
def test_without_a_plan_or_strength_it_is_the_base_and_a_detach_leaves_nothing(unets, rule):
    unet, arguments = unets("conv, two layers"), inputs(2)
    residual = random_residual(unet, rule)
    base, before = output(unet, arguments), longhand.snapshot(unet)
    with Branches(unet, [residual]) as branches, torch.no_grad():
        assert torch.equal(run(unet, *arguments), base)
        branches.plan = plain_plan([[0.0], [0.0]])
        assert torch.equal(run(unet, *arguments), base)
        branches.plan = plain_plan([[1.0], [1.0]])
        assert not torch.equal(run(unet, *arguments), base)
        branches.plan = None
        assert torch.equal(run(unet, *arguments), base)
    assert longhand.snapshot(unet) == before


def test_hooks_are_on_the_targets_alone_and_taps_only_where_lag_confines(unets):
    unet = unets("conv, two layers")
    blocks = list(longhand.transformers(unet))
    layers = [f"{block}.transformer_blocks.{layer}.attn2" for block in blocks for layer in (0, 1)]
    expected = {path + tapped: 1 for path in layers for tapped in ("", ".to_q", ".to_k")}
    expected |= {block: 1 for block in blocks} | {f"{block}.proj_out": 1 for block in blocks}
    with Branches(unet, [random_residual(unet, "proj_out")]):
        assert hooked(unet) == expected
    for rule in ("kv", "proj_in", "attn2"):
        residual = random_residual(unet, rule)
        with Branches(unet, [residual, residual]):
            assert hooked(unet) == dict.fromkeys(residual.factors, 1)


def test_keys_of_another_number_of_rows_are_told(unets):
    unet = unets()
    with Branches(unet, [random_residual(unet, "kv")]) as branches:
        branches.plan = plain_plan([[1.0], [1.0]])
        with pytest.raises(PersresError, match=f"The plan is for 2 rows, but {ATTN2}.to_k sees 3"):
            unet.get_submodule(ATTN2).to_k(torch.ones(3, 5, 32))


def test_contexts_of_any_length_and_half_precision_run():
    unet = make_unet()
    residual, plan = random_residual(unet, EVERY), plain_plan([[1.0], [0.5]])
    for tokens in (1, 5, 77):
        arguments = inputs(2, tokens=tokens)
        full = output(unet, arguments, [residual], plan)
        assert relative(full, output(unet, arguments)) > FAR
    half = output(unet.bfloat16(), arguments, [residual], plan)
    assert relative(half.float(), full) < 0.2


# -- learning


@pytest.mark.parametrize("rule", RULES)
def test_the_gradient_equals_that_of_merged_weights_on_every_target(rule):
    unet = make_unet().double()
    residual = random_residual(unet, rule)

    def trainable():
        return {
            path: Factors(*(torch.nn.Parameter(t.double()) for t in (f.down, f.up)))
            for path, f in residual.factors.items()
        }

    x, t, context = inputs(2)
    x, context = x.double(), context.double()
    branch, explicit = trainable(), trainable()
    with Branches(unet, [Residual(branch)]) as branches:
        branches.plan = plain_plan([[0.75], [0.75]])
        run(unet, x, t, context).pow(2).mean().backward()
    weights = {}
    for path, f in explicit.items():
        weight = unet.get_submodule(path).weight
        weights[f"unet.{path}.weight"] = weight + (0.75 * f.up @ f.down).view_as(weight)
    call = torch.nn.Module()
    call.unet = unet
    call.forward = lambda *arguments: run(unet, *arguments)
    functional_call(call, weights, (x, t, context)).pow(2).mean().backward()
    for path, f in explicit.items():
        for mine, theirs in ((branch[path].down, f.down), (branch[path].up, f.up)):
            if path.endswith("emb_layers.1") and theirs.grad.abs().max() < 1e-12:
                assert mine.grad.abs().max() < 1e-12  # a norm of one channel a group takes out what it adds
                continue
            assert theirs.grad.abs().max() > 1e-12 and relative(mine.grad, theirs.grad) < 1e-4
