"""An early mask confines all that has pixels, wherever it is in the UNet."""

import pytest
import torch

pytest.importorskip("ldm")

import longhand
from branch_calls import KINDS, output
from branch_calls import strong_plan as plain_plan
from early_masks import SIZE, Fixed, seen
from longhand import inputs
from targets_bench import random_residual, without

from lib_persres.branch import Branches
from lib_persres.concepts import Use
from lib_persres.masks import EARLY, MASKS
from lib_persres.plan import Plans, guidance_rows
from lib_persres.residual import Residual
from lib_persres.targets import EVERY
from lib_persres.unet import find_targets


def lag_plan(strengths=((0.8,), (0.6,))):
    uses = [[Use(strength, True, ((2, 3),)) for strength in row] for row in strengths]
    return Plans(uses).plan(guidance_rows(2), longhand.TOKENS)


def test_the_names_of_early_masks_are_those_of_the_masks_that_are():
    assert EARLY == {name for name, make in MASKS.items() if make().early}


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_of_ones_is_plain_sampling(unets, kind):
    unet, arguments = unets(kind), inputs(4, SIZE)
    residual = random_residual(unet, EVERY)
    whole = output(unet, arguments, [residual], lag_plan(), Fixed(1))
    assert torch.equal(whole, output(unet, arguments, [residual], plain_plan([[0.8], [0.6]] * 2)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_of_zeros_leaves_what_is_of_the_time_alone(unets, kind):
    unet, arguments = unets(kind), inputs(4, SIZE)
    residual = random_residual(unet, EVERY)
    placed = [target.path for target in find_targets(unet, EVERY) if target.has_pixels or target.is_of_text]
    none = output(unet, arguments, [residual], lag_plan(), Fixed(0))
    rest = without(residual, *placed)
    assert any("time_embed" in path for path in rest.factors)
    assert all(path.startswith(("time_embed.", "label_emb.")) or ".emb_layers." in path for path in rest.factors)
    assert torch.equal(none, output(unet, arguments, [rest], plain_plan([[0.8], [0.6]] * 2)))


@pytest.mark.parametrize("kind", KINDS)
def test_each_target_is_changed_where_the_mask_is_and_nowhere_else(unets, kind):
    """Alone, so that what it is given is the base model's own."""
    unet, arguments = unets(kind), inputs(4, SIZE)
    whole = random_residual(unet, EVERY)
    ends = ("attn1.to_q", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2")
    ends += (
        "proj_in",
        "proj_out",
        "in_layers.2",
        "out_layers.3",
        "skip_connection",
        "op",
        "conv",
        "out.2",
        "blocks.0.0",
    )
    for end in ends:
        path = [path for path in whole.factors if path.endswith(end)][-1]
        alone, mask = Residual({path: whole.factors[path]}, whole.metadata), Fixed(0.5)
        base = seen(unet, arguments, [path], [], None, None)[path]
        plain = seen(unet, arguments, [path], [alone], plain_plan([[0.8], [0.6]] * 2), None)[path]
        lag = seen(unet, arguments, [path], [alone], lag_plan(), mask)[path]
        (size,) = mask.sizes
        gate = mask.gate(type("view", (), {"size": size, "shape": (1, 1, size[0] * size[1])})())[0, 0]
        gate = gate.view(1, -1, 1) if base.ndim == 3 else gate.view(1, 1, *base.shape[-2:])
        assert torch.equal(lag, torch.where(gate > 0, plain, base)), path
        assert not torch.equal(plain, base)


def test_each_size_is_asked_for_once_in_a_call_and_anew_in_the_next(unets):
    unet, arguments = unets(), inputs(4, SIZE)
    asked = []

    class Counting(Fixed):
        def gate(self, view):
            asked.append(view.size)
            return super().gate(view)

    residual = without(random_residual(unet, EVERY), ".proj_out")
    with Branches(unet, [residual], Counting(0.5)) as branches:
        for step in range(2):
            branches.begin(step, step / 2)
            branches.plan = lag_plan()
            longhand.run(unet, *arguments)
            assert len(asked) == len(set(asked)) > 1
            asked.clear()


def test_split_calls_give_the_picture_of_whole_ones(unets):
    unet, arguments = unets(), inputs(4, SIZE)
    residual = random_residual(unet, "attn1+attn2+proj_out")
    uses = [[Use(0.8, True, ((2, 3),))], [Use(0.6, True, ((5,),))]]
    rows = guidance_rows(2)
    whole, parts = [], []
    for calls, out in (([[0, 1, 2, 3]], whole), ([[1, 3], [0, 2]], parts)):
        with Branches(unet, [residual], MASKS["fitted"]()) as branches:
            for step in range(3):
                branches.begin(step, step / 3)
                plans, result = Plans(uses), {}
                for call in calls:
                    branches.plan = plans.plan([rows[place] for place in call], longhand.TOKENS)
                    given = [argument[call] for argument in arguments]
                    result |= dict(zip(call, longhand.run(unet, *given)))
                out.append(torch.stack([result[place] for place in range(4)]))
    for one, other in zip(whole, parts):
        assert torch.allclose(one, other, atol=1e-4)
    assert not torch.equal(whole[0], whole[2])


def test_where_pixels_are_merged_a_layer_acts_everywhere(unets):
    unet, arguments = unets(), inputs(4, SIZE)
    path = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    residual = random_residual(unet, EVERY)
    alone = Residual({path: residual.factors[path]}, residual.metadata)
    attention = dict(unet.named_modules())[path.removesuffix(".to_q")]

    def halves(module, args, kwargs):
        return (args[0][:, ::2], *args[1:]), kwargs

    handle = attention.register_forward_pre_hook(halves, with_kwargs=True)
    restored = attention.register_forward_hook(lambda m, a, out: out.repeat_interleave(2, 1))
    try:
        lag = output(unet, arguments, [alone], lag_plan(), Fixed(0))
        assert torch.equal(lag, output(unet, arguments, [alone], plain_plan([[0.8], [0.6]] * 2)))
    finally:
        handle.remove()
        restored.remove()


@pytest.mark.parametrize("rule", ["proj_out", "attn1+attn2"])
def test_a_concept_that_waits_does_nothing_and_has_its_mask_when_it_begins(unets, rule):
    unet, arguments = unets(), inputs(4, SIZE)
    residual, rows = random_residual(unet, rule), guidance_rows(2)

    def drawn(before):
        mask = MASKS["fitted"]()
        with Branches(unet, [residual], mask) as branches:
            for step, use in enumerate((before, before, Use(0.8, True, ((2, 3),)))):
                branches.begin(step, step / 3)
                branches.plan = Plans([[use], [use]]).plan(rows, longhand.TOKENS)
                result = longhand.run(unet, *arguments)
                if step == 0:
                    first = result
            return first, result

    waiting, late = drawn(Use(0.0, True, ((2, 3),), waits=True)), drawn(Use(0.0, True, ((2, 3),)))
    base = output(unet, arguments)
    plain = output(unet, arguments, [residual], plain_plan([[0.8]] * 4))
    assert torch.equal(waiting[0], base) and torch.equal(late[0], base)
    assert not torch.equal(waiting[1], base) and not torch.equal(waiting[1], plain)
    assert torch.equal(late[1], base)  # nothing was seen, so it waits for its first map
