import pytest
import torch

pytest.importorskip("ldm")

import longhand
from longhand import equation_3, inputs, make_unet, mask_of, merged, random_residual, relative, row_of, run
from torch.func import functional_call

from lib_persres.branch import Branches
from lib_persres.errors import PersresError
from lib_persres.lag import Plan, guidance_plan
from lib_persres.residual import Factors, Residual
from lib_persres.unet import find_blocks

KINDS = {
    "conv": {"linear": False},
    "linear": {"linear": True},
    "conv, two layers": {"linear": False, "depth": 2},
    "linear, two layers": {"linear": True, "depth": 2},
}
# two images: the tokens of three concepts in each one's prompt; the maps of the last two share a token
TOKENS = [[(2, 3), (5,), (5, 9)], [(1, 2, 3), (8, 9), (9, 4)]]
STRENGTHS = [[1.0, 0.7, -0.4], [0.6, 1.0, 1.3]]
RANKS = (2, 5, 1)


@pytest.fixture(scope="module")
def unets():
    made = {}

    def get(kind="conv"):
        if kind not in made:
            made[kind] = make_unet(**KINDS[kind])
        return made[kind]

    return get


def residuals_for(unet, count):
    return [random_residual(unet, rank, seed) for seed, rank in enumerate(RANKS[:count])]


def indicator(tokens, count, n=longhand.TOKENS):
    out = torch.zeros(len(tokens), count, n)
    for image, concepts in enumerate(tokens):
        for index in range(count):
            out[image, index, list(concepts[index])] = 1
    return out


def lag_plan(count, **options):
    strength = torch.tensor(STRENGTHS)[:, :count]
    gated = torch.ones(2, count, dtype=torch.bool)
    return guidance_plan(strength, gated, indicator(TOKENS, count), **options)


def plain_plan(rows, strength=1.0, count=1):
    return Plan(torch.full((rows, count), strength), torch.zeros(rows, count, dtype=torch.bool))


def output(unet, arguments, residuals=(), plan=None):
    with torch.no_grad():
        if not residuals:
            return run(unet, *arguments)
        with Branches(unet, residuals) as branches:
            branches.plan = plan
            return run(unet, *arguments)


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
    assert worst < 1e-5
    assert mixed == len(seen) * sum(image is not None for _, image in rows)


# -- 1. equation 3


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
    images = torch.tensor([0, 1, 1, 0])  # uncond 0, cond 1, uncond 1, cond 0
    plan = Plan(
        strength=torch.tensor(STRENGTHS)[images],
        gated=torch.ones(4, 3, dtype=torch.bool),
        indicator=indicator(TOKENS, 3)[images],
        map_rows=torch.tensor([False, True, False, True]),
        group=images,
    )
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
    plan = lag_plan(2)
    plan.gated[:, 1] = False
    with Branches(unet, residuals) as branches, longhand.watch(unet) as seen, torch.no_grad():
        branches.plan = plan
        run(unet, *inputs(4, seed=5))
    for name, block in longhand.transformers(unet).items():
        for row, image in enumerate([0, 1, 0, 1]):
            mask = mask_of(seen[name], image, TOKENS[image][0])
            deltas = [longhand.delta(r, name, STRENGTHS[image][k]) for k, r in enumerate(residuals)]
            expected = equation_3(block.proj_out, seen[name].x[row], deltas, [mask, torch.ones_like(mask)])
            assert relative(row_of(seen[name].out, row), expected) < 1e-5


# -- 2. equivalences


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_all_ones_mask_is_plain_sampling_and_all_zeros_mask_is_the_base(unets, kind, count):
    unet = unets(kind)
    residuals, arguments = residuals_for(unet, count), inputs(4, (6, 10))
    base = output(unet, arguments)
    strength = torch.tensor(STRENGTHS)[:, :count].repeat(2, 1)
    plain = output(unet, arguments, residuals, Plan(strength, torch.zeros(4, count, dtype=torch.bool)))
    everywhere = output(unet, arguments, residuals, lag_plan(count, mask=torch.ones_like))
    nowhere = output(unet, arguments, residuals, lag_plan(count, mask=torch.zeros_like))
    lag = output(unet, arguments, residuals, lag_plan(count))
    assert torch.equal(everywhere, plain)
    assert torch.equal(nowhere, base)
    for one, other in ((plain, base), (lag, plain), (lag, base)):
        for row in range(4):
            assert relative(one[row], other[row]) > 1e-2


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_strength_zero_is_the_base(unets, kind):
    unet = unets(kind)
    residuals, arguments = residuals_for(unet, 2), inputs(4)
    base = output(unet, arguments)
    assert torch.equal(output(unet, arguments, residuals, plain_plan(4, 0.0, count=2)), base)
    lag = lag_plan(2)
    lag.strength.zero_()
    assert torch.equal(output(unet, arguments, residuals, lag), base)


def test_without_a_plan_the_model_is_the_base(unets):
    unet = unets()
    residuals, arguments = residuals_for(unet, 1), inputs(2)
    assert torch.equal(output(unet, arguments, residuals, None), output(unet, arguments))


def test_a_strength_of_zero_in_one_row_leaves_that_row_to_the_base(unets):
    unet = unets()
    residuals, arguments = residuals_for(unet, 1), inputs(2)
    plan = plain_plan(2)
    plan.strength[1] = 0
    base, result = output(unet, arguments), output(unet, arguments, residuals, plan)
    assert torch.equal(result[1], base[1]) and relative(result[0], base[0]) > 1e-2


# -- 2. nothing is left


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


def breaking(module):
    """The module raises in mid-forward, and the error is expected."""

    class Context:
        def __enter__(self):
            self.handle = module.register_forward_pre_hook(self.fail)

        def fail(self, *_):
            raise ArithmeticError("in mid-forward")

        def __exit__(self, kind, *_):
            self.handle.remove()
            assert kind is ArithmeticError, "it did not raise"
            return True

    return Context()


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
    hooks = {
        name: {kind: len(found) for kind, found in m[2].items()}
        for name, m in longhand.snapshot(unet)[0].items()
    }
    branches.attach()
    again = {
        name: {kind: len(found) for kind, found in m[2].items()}
        for name, m in longhand.snapshot(unet)[0].items()
    }
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
    with Branches(unet, residuals_for(unet, 1)) as branches, torch.no_grad():
        branches.plan = lag_plan(1)
        run(unet, *inputs(4))
        assert not branches._maps


def test_a_residual_of_some_blocks_keeps_no_maps_of_the_others(unets):
    unet = unets()
    (residual,) = residuals_for(unet, 1)
    target = "middle_block.1.proj_out"
    with Branches(unet, [Residual({target: residual.factors[target]})]) as branches, torch.no_grad():
        branches.plan = lag_plan(1)
        run(unet, *inputs(4))
        assert not branches._maps


# -- 3. which rows


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
    conditional = lag_plan(2, unconditional=None, memory={})
    images = torch.arange(2)
    # the unconditional prompt may be shorter or longer than the prompt
    unconditional = Plan(
        strength=torch.tensor(STRENGTHS)[:, :2],
        gated=torch.ones(2, 2, dtype=torch.bool),
        indicator=torch.zeros(2, 2, 5),
        map_rows=torch.zeros(2, dtype=torch.bool),
        group=images,
        memory=conditional.memory,
    )
    with Branches(unet, residuals) as branches, torch.no_grad():
        branches.plan = conditional
        first = run(unet, x[:2], t[:2], context[:2])
        branches.plan = unconditional
        second = run(unet, x[2:], t[2:], context[2:])
    assert relative(torch.cat([first, second]), together) < 1e-5


def test_unconditional_rows_before_any_conditional_ones_are_refused(unets):
    unet = unets()
    plan = lag_plan(1)
    plan = Plan(plan.strength[2:], plan.gated[2:], plan.indicator[2:], plan.map_rows[2:], plan.group[2:])
    with pytest.raises(PersresError, match="input_blocks.1.1"):
        output(unet, inputs(2), residuals_for(unet, 1), plan)


# -- 4. gradients and merged weights


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
        assert relative(mine[target][0], f.down.grad) < 1e-5
        assert relative(mine[target][1], f.up.grad) < 1e-5


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_merged_weights_and_branch_agree(unets, kind, count):
    unet, arguments = unets(kind), inputs(2, (6, 10))
    residuals, strengths = residuals_for(unet, count), STRENGTHS[0][:count]
    plan = Plan(torch.tensor([strengths] * 2), torch.zeros(2, count, dtype=torch.bool))
    branch = output(unet, arguments, residuals, plan)
    explicit = output(merged(unet, residuals, strengths), arguments)
    assert relative(branch, explicit) < 1e-5
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


# -- 6. other hosts


def test_blocks_are_ldms_spatial_transformers(unets):
    unet = unets("linear, two layers")
    expected = longhand.transformers(unet)
    blocks = find_blocks(unet)
    assert [block.name for block in blocks] == list(expected)
    for block in blocks:
        module = expected[block.name]
        assert block.proj_out is module.proj_out and block.width == module.in_channels
        assert block.attentions == tuple(layer.attn2 for layer in module.transformer_blocks)


def test_channels_last_and_half_precision_run(unets):
    unet = make_unet()
    residuals, arguments = residuals_for(unet, 2), inputs(4, (6, 10))
    lag = output(unet, arguments, residuals, lag_plan(2, mask=torch.ones_like))
    x, t, context = arguments
    last = (x.contiguous(memory_format=torch.channels_last), t, context)
    unet.to(memory_format=torch.channels_last)
    assert relative(output(unet, last, residuals, lag_plan(2, mask=torch.ones_like)), lag) < 1e-5
    unet.bfloat16()
    result = output(unet, (x, t, context), residuals, lag_plan(2, mask=torch.ones_like))
    assert relative(result.float(), lag) < 0.1
