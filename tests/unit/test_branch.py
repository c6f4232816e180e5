"""What a forward gives with residuals at work: equation 3, plain sampling or the base, row by row."""

import copy

import pytest
import torch

pytest.importorskip("ldm")

import longhand
from branch_calls import (
    KINDS,
    STRENGTHS,
    TOKENS,
    breaking,
    lag_plan,
    lag_uses,
    ones,
    output,
    plain_plan,
    residuals_for,
    strong_plan,
    zeros,
)
from longhand import equation_3, inputs, make_unet, mask_of, row_of, run
from rounding import NETWORK, PRODUCT, assert_near, relative

from lib_persres.branch import Branches
from lib_persres.errors import PersresError
from lib_persres.plan import Plans, Row, guidance_rows
from lib_persres.unet import find_blocks


def check_equation_3(unet, seen, residuals, rows):
    """rows: for each row of the call (row that makes the mask, image), None for the image of a base row."""
    worst, mixed = 0.0, 0
    for name, block in longhand.transformers(unet).items():
        record = seen[name]
        assert len(record.attentions) == len(block.transformer_blocks)
        for row, (source, image) in enumerate(rows):
            masks, deltas = [], []
            for index, residual in enumerate(residuals if image is not None else ()):
                masks.append(mask_of(record, source, TOKENS[image][index]))
                deltas.append(longhand.delta(residual, name, STRENGTHS[image][index]))
                assert masks[-1].sum() == len(masks[-1]) // 2
            expected = equation_3(block.proj_out, record.x[row], deltas, masks)
            worst = max(worst, relative(row_of(record.out, row), expected))
            if masks:
                # the comparison bites: neither everywhere nor nowhere
                everywhere = [torch.ones_like(mask) for mask in masks]
                full = equation_3(block.proj_out, record.x[row], deltas, everywhere)
                none = equation_3(block.proj_out, record.x[row], [], [])
                mixed += relative(expected, full) > 1e-2 and relative(expected, none) > 1e-2
    assert worst < PRODUCT
    assert mixed == len(seen) * sum(image is not None for _, image in rows)


# -- equation 3


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (6, 10)])
@pytest.mark.parametrize("kind", KINDS)
def test_each_blocks_lag_output_equals_equation_3_the_long_way(unets, kind, size, count):
    unet = unets(kind)
    residuals = residuals_for(unet, count)
    with Branches(unet, residuals) as branches, longhand.watch(unet) as seen, torch.no_grad():
        branches.plan = lag_plan(count)
        run(unet, *inputs(4, size, seed=3))
    # rows: cond 0, cond 1, uncond 0, uncond 1
    check_equation_3(unet, seen, residuals, [(0, 0), (1, 1), (0, 0), (1, 1)])


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_equation_3_holds_for_rows_in_any_order(unets, kind):
    unet = unets(kind)
    residuals = residuals_for(unet, 3)
    rows = [Row(0, None), Row(1, 0), Row(1, None), Row(0, 0)]
    plan = Plans(lag_uses(3)).plan(rows, longhand.TOKENS)
    with Branches(unet, residuals) as branches, longhand.watch(unet) as seen, torch.no_grad():
        branches.plan = plan
        run(unet, *inputs(4, (6, 10), seed=4))
    check_equation_3(unet, seen, residuals, [(3, 0), (1, 1), (1, 1), (3, 0)])


def test_equation_3_holds_after_an_interrupted_forward(unets):
    # what the first layer's map left behind must not join the next forward's maps
    unet = unets("conv, two layers")
    residuals = residuals_for(unet, 1)
    second = longhand.transformers(unet)["middle_block.1"].transformer_blocks[1].attn2.to_k
    with Branches(unet, residuals) as branches, torch.no_grad():
        branches.plan = lag_plan(1)
        with breaking(second):
            run(unet, *inputs(4, seed=9))
        with longhand.watch(unet) as seen:
            run(unet, *inputs(4, seed=3))
    check_equation_3(unet, seen, residuals, [(0, 0), (1, 1), (0, 0), (1, 1)])


def test_equation_3_holds_at_each_of_several_steps_and_sizes(unets):
    unet = unets()
    residuals = residuals_for(unet, 2)
    with Branches(unet, residuals) as branches, torch.no_grad():
        branches.plan = lag_plan(2)
        for seed, size in enumerate([(8, 8), (8, 8), (10, 6)]):
            with longhand.watch(unet) as seen:
                run(unet, *inputs(4, size, seed=20 + seed))
            check_equation_3(unet, seen, residuals, [(0, 0), (1, 1), (0, 0), (1, 1)])


def test_a_plain_concept_beside_a_localized_one_acts_everywhere(unets):
    unet = unets()
    residuals = residuals_for(unet, 2)
    plan = lag_plan(2, gated=[True, False])
    with Branches(unet, residuals) as branches, longhand.watch(unet) as seen, torch.no_grad():
        branches.plan = plan
        run(unet, *inputs(4, seed=5))
    for name, block in longhand.transformers(unet).items():
        for row, image in enumerate([0, 1, 0, 1]):
            mask = mask_of(seen[name], image, TOKENS[image][0])
            deltas = [longhand.delta(r, name, STRENGTHS[image][k]) for k, r in enumerate(residuals)]
            expected = equation_3(block.proj_out, seen[name].x[row], deltas, [mask, torch.ones_like(mask)])
            assert relative(row_of(seen[name].out, row), expected) < PRODUCT


# -- equivalences


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_all_ones_mask_is_plain_sampling_and_all_zeros_mask_is_the_base(unets, kind, count):
    unet = unets(kind)
    residuals, arguments = residuals_for(unet, count), inputs(4, (6, 10))
    base = output(unet, arguments)
    plain = output(unet, arguments, residuals, strong_plan([row[:count] for row in STRENGTHS * 2]))
    everywhere = output(unet, arguments, residuals, lag_plan(count), ones())
    nowhere = output(unet, arguments, residuals, lag_plan(count), zeros())
    lag = output(unet, arguments, residuals, lag_plan(count))
    assert torch.equal(everywhere, plain)
    assert torch.equal(nowhere, base)
    for one, other in ((plain, base), (lag, plain), (lag, base)):
        for row in range(4):
            assert relative(one[row], other[row]) > 1e-2


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_a_concept_at_strength_zero_leaves_the_other_as_it_is(unets, kind):
    unet = unets(kind)
    residuals, arguments = residuals_for(unet, 2), inputs(4)
    strengths = [[row[0], 0.0] for row in STRENGTHS]
    for both, one in (
        (lag_plan(2, strengths=strengths), lag_plan(1)),
        (strong_plan(strengths * 2), strong_plan([row[:1] for row in STRENGTHS * 2])),
    ):
        result = output(unet, arguments, residuals, both)
        assert_near(result, output(unet, arguments, residuals[:1], one), NETWORK)
        assert relative(result, output(unet, arguments)) > 1e-2


def test_without_a_plan_the_model_is_the_base(unets):
    unet = unets()
    residuals, arguments = residuals_for(unet, 1), inputs(2)
    assert torch.equal(output(unet, arguments, residuals, None), output(unet, arguments))


def test_a_strength_of_zero_in_one_row_leaves_that_row_to_the_base(unets):
    unet = unets()
    residuals, arguments = residuals_for(unet, 1), inputs(2)
    base, result = output(unet, arguments), output(unet, arguments, residuals, strong_plan([[1.0], [0.0]]))
    assert torch.equal(result[1], base[1]) and relative(result[0], base[0]) > 1e-2


# -- which rows


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_base_rows_are_bit_identical_to_the_base_models_in_the_first_block(unets, kind):
    unet, arguments = unets(kind), inputs(4)
    residuals = residuals_for(unet, 2)
    with longhand.watch(unet) as base:
        output(unet, arguments)
    with Branches(unet, residuals) as branches, longhand.watch(unet) as seen, torch.no_grad():
        branches.plan = lag_plan(2, unconditional="base")
        result = run(unet, *arguments)
    first = next(iter(seen))
    assert torch.equal(seen[first].out[2:], base[first].out[2:])
    assert not torch.equal(seen[first].out[:2], base[first].out[:2])
    # rows never mix, so the whole UNet leaves them alone
    assert torch.equal(result[2:], output(unet, arguments)[2:])
    check_equation_3(unet, seen, residuals, [(0, 0), (1, 1), (None, None), (None, None)])


def test_split_calls_equal_one_call(unets):
    unet = unets()
    residuals = residuals_for(unet, 2)
    x, t, context = inputs(4, (6, 10))
    together = output(unet, (x, t, context), residuals, lag_plan(2))
    plans = Plans(lag_uses(2))
    with Branches(unet, residuals) as branches, torch.no_grad():
        branches.plan = plans.plan(guidance_rows(2, guided=False), longhand.TOKENS)
        first = run(unet, x[:2], t[:2], context[:2])
        # the unconditional prompt may be shorter or longer than the prompt
        branches.plan = plans.plan([Row(0, None), Row(1, None)], 5)
        second = run(unet, x[2:], t[2:], context[2:])
    assert_near(torch.cat([first, second]), together, NETWORK)


def test_unconditional_rows_before_any_conditional_ones_are_refused(unets):
    unet = unets()
    with Branches(unet, residuals_for(unet, 1)) as branches, torch.no_grad():
        plans = Plans(lag_uses(1))
        branches.plan = plans.plan(guidance_rows(2), longhand.TOKENS)
        run(unet, *inputs(4))
        branches.begin(1, 0.5)  # the masks of the evaluation before are no more
        branches.plan = plans.plan([Row(0, None), Row(1, None)], longhand.TOKENS)
        with pytest.raises(PersresError, match="no mask for input_blocks.1.1: unconditional rows came before"):
            run(unet, *inputs(2))


# -- other hosts


def test_blocks_are_ldms_spatial_transformers(unets):
    unet = unets("linear, two layers")
    expected = longhand.transformers(unet)
    blocks = find_blocks(unet)
    assert [block.name for block in blocks] == list(expected)
    for block in blocks:
        module = expected[block.name]
        assert block.proj_out is module.proj_out and block.width == module.in_channels
        assert block.attentions == tuple(layer.attn2 for layer in module.transformer_blocks)


def test_what_lies_channels_last_stays_so_to_the_bit(unets):
    """What follows rounds by how its input lies, so a strength of nothing must leave that as it is."""
    unet, (x, t, context) = unets(), inputs(2)
    arguments = x.contiguous(memory_format=torch.channels_last), t, context
    unet = copy.deepcopy(unet).to(memory_format=torch.channels_last)
    residuals = residuals_for(unet, 1)
    base = output(unet, arguments)
    assert torch.equal(output(unet, arguments, residuals, plain_plan(2, 1e-30)), base)
    assert torch.equal(output(unet, arguments, residuals, lag_plan(1, guided=False), zeros()), base)
    plain = output(unet, arguments, residuals, plain_plan(2))
    assert relative(plain, output(unets(), inputs(2), residuals, plain_plan(2))) < NETWORK
    assert not torch.equal(plain, base)


def test_channels_last_and_half_precision_run(unets):
    unet = make_unet()
    residuals, arguments = residuals_for(unet, 2), inputs(4, (6, 10))
    lag = output(unet, arguments, residuals, lag_plan(2), ones())
    x, t, context = arguments
    last = (x.contiguous(memory_format=torch.channels_last), t, context)
    unet.to(memory_format=torch.channels_last)
    assert_near(output(unet, last, residuals, lag_plan(2), ones()), lag, NETWORK)
    unet.bfloat16()
    result = output(unet, (x, t, context), residuals, lag_plan(2), ones())
    assert relative(result.float(), lag) < 0.2 < relative(output(make_unet(), arguments), lag)
