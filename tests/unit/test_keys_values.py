"""Keys and values under an early mask: each pixel attends to those of the concept whose mask has it."""

import pytest
import torch

pytest.importorskip("ldm")

import longhand
from branch_calls import KINDS, breaking, output
from branch_calls import strong_plan as plain_plan
from early_masks import SIZE, Fixed, seen
from longhand import inputs
from targets_bench import ATTN2, random_residual

from lib_persres.attention import Taps
from lib_persres.branch import Branches
from lib_persres.concepts import Use
from lib_persres.masks import MASKS
from lib_persres.plan import Plans, guidance_rows
from lib_persres.residual import Residual
from lib_persres.unet import find_blocks

PIXELS = SIZE[0] * SIZE[1]
FIRST = f"{ATTN2}."
"""The keys and values whose attention is the first of the UNet's: what it is given is the base model's own."""


class Columns(Fixed):
    """Of each concept the columns from one to another."""

    def __init__(self, *bounds):
        self.bounds, self.sizes = bounds, set()

    def gate(self, view):
        at = torch.arange(view.size[1])
        masks = [((low <= at) & (at < high)).float().expand(*view.size).reshape(-1) for low, high in self.bounds]
        return torch.stack(masks).expand(view.shape).clone()


def first_of(unet, seed=0):
    whole = random_residual(unet, "kv", seed=seed)
    return Residual({path: f for path, f in whole.factors.items() if path.startswith(FIRST)}, whole.metadata)


def lag_plan(strengths=((0.8,), (0.6,)), gated=((True,), (True,))):
    tokens = ((2, 3), (5,), (7, 8))
    uses = [
        [Use(strength, here, (own,)) for strength, here, own in zip(row, confined, tokens)]
        for row, confined in zip(strengths, gated)
    ]
    return Plans(uses).plan(guidance_rows(2), longhand.TOKENS)


def attended(unet, arguments, residuals, plan, mask=None):
    """What the first cross-attention gives, (b, hw, d)."""
    return seen(unet, arguments, [ATTN2], residuals, plan, mask)[ATTN2]


def columns(low, high):
    at = torch.arange(SIZE[1])
    return ((low <= at) & (at < high)).expand(*SIZE).reshape(1, PIXELS, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_each_pixel_attends_to_its_own_concepts_keys_and_values(unets, kind):
    unet, arguments = unets(kind), inputs(4, SIZE)
    one, two = first_of(unet), first_of(unet, 1)
    strengths = ((0.8, -0.5), (0.6, 1.2))
    lag = attended(unet, arguments, [one, two], lag_plan(strengths, [(True, True)] * 2), Columns((0, 4), (6, 9)))
    own = [
        attended(unet, arguments, [each], plain_plan([[row[k]] for row in strengths] * 2))
        for k, each in enumerate((one, two))
    ]
    base = attended(unet, arguments, [], None)
    expected = torch.where(columns(0, 4), own[0], torch.where(columns(6, 9), own[1], base))
    torch.testing.assert_close(lag, expected, atol=1e-5, rtol=1e-4)
    for each in own:
        assert (each - base).abs().amax((1, 2)).min() > 1e-2
    alone = attended(unet, arguments, [one], lag_plan(), Columns((0, 4)))
    plain = attended(unet, arguments, [one], plain_plan([[0.8], [0.6]] * 2))
    assert torch.equal(alone, torch.where(columns(0, 4), plain, base))


def test_where_masks_overlap_all_of_them_act_as_plainly(unets):
    unet, arguments = unets(), inputs(4, SIZE)
    both = [random_residual(unet, "kv", seed=seed) for seed in range(2)]
    strengths = ((0.8, -0.5), (0.6, 1.2))
    plan = lag_plan(strengths, [(True, True)] * 2)
    lag = output(unet, arguments, both, plan, Columns((0, 10), (0, 10)))
    assert torch.equal(lag, output(unet, arguments, both, plain_plan(strengths * 2)))


def test_what_is_not_confined_acts_everywhere_beside_what_is(unets):
    """In the second image it is the other concept that LAG confines."""
    unet, arguments = unets(), inputs(4, SIZE)
    both = [first_of(unet, seed) for seed in range(2)]
    strengths, mask = ((0.8, 0.5), (0.6, 1.2)), Columns((0, 4), (6, 9))
    lag = attended(unet, arguments, both, lag_plan(strengths, [(True, False), (False, True)]), mask)
    alone = {k: attended(unet, arguments, [both[k]], plain_plan([[row[k]] for row in strengths] * 2)) for k in (0, 1)}
    together = attended(unet, arguments, both, plain_plan(strengths * 2))
    first, second = torch.tensor([0, 2]), torch.tensor([1, 3])
    close = {"atol": 1e-5, "rtol": 1e-4}
    torch.testing.assert_close(lag[first], torch.where(columns(0, 4), together, alone[1])[first], **close)
    torch.testing.assert_close(lag[second], torch.where(columns(6, 9), together, alone[0])[second], **close)


@pytest.mark.parametrize("name", sorted(MASKS))
def test_each_attention_is_shown_to_the_mask_once_a_call(unets, name):
    unet, arguments = unets(), inputs(4, SIZE)
    residual = random_residual(unet, "kv+proj_out")
    shown = []
    mask = MASKS[name]()
    see = mask.see
    mask.see = lambda view, maps: (shown.append(view.block), see(view, maps))[1]
    with Branches(unet, [residual], mask) as branches:
        for step in range(2):
            branches.begin(step, step / 2)
            branches.plan = lag_plan()
            longhand.run(unet, *arguments)
            assert shown and len(shown) == len(set(shown))
            shown.clear()


def test_an_attention_is_computed_once_more_for_each_confined_concept_and_not_at_all_without(unets):
    unet, arguments = unets(), inputs(4, SIZE)
    both = [first_of(unet, seed) for seed in range(2)]
    attention, calls = dict(unet.named_modules())[ATTN2], []
    handle = attention.to_q.register_forward_hook(lambda *_: calls.append(1))
    try:
        for gated, count in ((False, False), 1), ((True, False), 2), ((True, True), 4):  # 4: where masks overlap, too
            output(unet, arguments, both, lag_plan(((0.8, 0.5), (0.6, 1.2)), [gated] * 2), Fixed(0.5))
            assert len(calls) == count
            calls.clear()
        output(unet, arguments, both, plain_plan([[0.8, 0.5]] * 4), Fixed(0.5))
        assert len(calls) == 1
    finally:
        handle.remove()


def test_a_failure_between_leaves_nothing_that_acts(unets):
    unet, arguments = unets(), inputs(4, SIZE)
    residual = random_residual(unet, "kv")
    attention = dict(unet.named_modules())[ATTN2]
    with Branches(unet, [residual], Fixed(0.5)) as branches:
        branches.plan = lag_plan()
        expected = longhand.run(unet, *arguments)
        for part in (attention.to_v, attention.to_out):
            with breaking(part):
                longhand.run(unet, *arguments)
        assert torch.equal(longhand.run(unet, *arguments), expected)
        branches.plan = None
        assert torch.equal(longhand.run(unet, *arguments), output(unet, arguments))
    assert not attention._forward_hooks and not attention._forward_pre_hooks


def test_other_taps_see_the_attention_as_often_as_it_is_computed(unets):
    """A tap of somebody else is not ours to blind."""
    unet, arguments = unets(), inputs(4, SIZE)
    seen_by_others = []
    taps = Taps(find_blocks(unet)[:1], lambda *found: seen_by_others.append(found))
    try:
        output(unet, arguments, [first_of(unet)], lag_plan(), Fixed(0.5))
        assert len(seen_by_others) == 2
    finally:
        taps.remove()
