"""From masks to gates: which row takes which, how strong, and who is told."""

import pytest
import torch
from lag_calls import Bench, Given

from lib_persres.concepts import Use
from lib_persres.errors import PersresError
from lib_persres.overlay import MaskRecorder
from lib_persres.plan import Plans, Row, guidance_rows

MAPS = torch.tensor([[[0.1, 0.9, 0.2, 0.8]], [[0.9, 0.8, 0.1, 0.2]]])  # (2 images, 1 concept, 4 pixels)
MASKS = torch.tensor([[[0.0, 1, 0, 1]], [[1.0, 1, 0, 0]]])
OWN = {Row(image, 0): MAPS[image] for image in range(2)}
PARTS = {Row(0, part): MAPS[part] for part in range(2)}
TOKENS = 5


def uses(count=1, images=2, parts=1):
    return [[Use(1.0, True, ((1, 2),) * parts)] * count] * images


def plan(rows=None, **options):
    return Plans(uses(), **options).plan(guidance_rows(2) if rows is None else rows, TOKENS)


def test_unconditional_row_takes_its_own_images_mask():
    assert torch.equal(Bench(Given(OWN)).gates(plan()), torch.cat([MASKS, MASKS]))


def test_unconditional_rows_on_base_have_no_gate_and_rows_without_guidance_are_conditional():
    gates = Bench(Given(OWN)).gates(plan(unconditional="base"))
    assert torch.equal(gates, torch.cat([MASKS, torch.zeros_like(MASKS)]))
    assert torch.equal(Bench(Given(OWN)).gates(plan(guidance_rows(2, guided=False))), MASKS)


def test_base_holds_for_plain_sampling_too():
    plain = Plans([[Use(1.0, False)]] * 2, "base").plan(guidance_rows(2), TOKENS)
    assert Bench(Given(OWN)).gates(plain).flatten().tolist() == [1, 1, 0, 0]


def test_rows_in_any_order_take_their_images_mask():
    gates = Bench(Given(OWN)).gates(plan([Row(0, None), Row(1, 0), Row(1, None), Row(0, 0)]))
    assert torch.equal(gates, torch.stack([MASKS[0], MASKS[1], MASKS[1], MASKS[0]]))


def test_strengths_and_plain_concepts_hold_in_each_row():
    found = [
        [Use(0.5, True, ((1,),)), Use(2.0, False, ((3,),))],
        [Use(1.0, True, ((1,),)), Use(0.0, True, ((3,),))],
    ]
    maps = {Row(image, 0): torch.cat([MAPS[image], MAPS[1 - image]]) for image in range(2)}
    gates = Bench(Given(maps)).gates(Plans(found).plan(guidance_rows(2), TOKENS))
    for row, image in enumerate([0, 1, 0, 1]):
        assert torch.equal(gates[row, 0], found[image][0].strength * MASKS[image, 0])
    assert torch.equal(gates[0, 1], torch.full((4,), 2.0)) and torch.equal(gates[0], gates[2])
    assert not gates[1, 1].any() and not gates[3, 1].any()


def test_concepts_of_different_parts_are_taken_from_those_that_name_them():
    found = [[Use(1.0, True, ((1,), ())), Use(1.0, True, ((), (3,)))]]
    maps = {Row(0, part): MAPS[part].expand(2, 4) for part in range(2)}
    gates = Bench(Given(maps)).gates(Plans(found).plan([Row(0, 0), Row(0, 1), Row(0, None)], TOKENS))
    assert torch.equal(gates, MASKS[:, 0].expand(3, 2, 4))


def test_composed_prompts_keep_their_own_masks_and_the_unconditional_row_takes_their_union():
    rows = [Row(0, 0), Row(0, 1), Row(0, None)]
    gates = Bench(Given(PARTS)).gates(Plans(uses(images=1, parts=2)).plan(rows, TOKENS))
    assert torch.equal(gates[:2], MASKS)
    assert gates[2, 0].tolist() == [1, 1, 0, 1]


def test_the_same_row_twice_in_a_call_keeps_what_each_makes():
    class Twice(Given):
        def gate(self, view):
            return MASKS

    gates = Bench(Twice(OWN)).gates(plan([Row(0, 0), Row(0, 0)]))
    assert torch.equal(gates, MASKS)


# -- an evaluation in several calls


def test_unconditional_rows_may_come_in_a_call_of_their_own():
    bench, plans = Bench(Given(OWN)), Plans(uses())
    bench.gates(plans.plan(guidance_rows(2, guided=False), TOKENS))
    later = plans.plan([Row(0, None), Row(1, None)], 9)
    assert torch.equal(bench.gates(later), MASKS)
    with pytest.raises(PersresError, match="no mask for b"):
        bench.gates(later, at=1)
    bench.lag.begin(1, 0.5)  # masks are of one evaluation
    with pytest.raises(PersresError, match="no mask for a"):
        bench.gates(later)


def test_the_parts_of_a_composed_prompt_may_come_in_calls_of_their_own():
    bench, plans = Bench(Given(PARTS)), Plans(uses(images=1, parts=2))
    for part in range(2):
        gates = bench.gates(plans.plan([Row(0, part)], TOKENS))
        assert torch.equal(gates[0], MASKS[part])  # each keeps its own mask
    assert bench.gates(plans.plan([Row(0, None)], TOKENS))[0, 0].tolist() == [1, 1, 0, 1]


def test_a_call_that_has_all_its_rows_needs_nothing_of_the_one_before():
    bench = Bench(mask := Given(OWN))
    bench.gates(plan())
    mask.maps = {Row(0, 0): MAPS[1], Row(1, 0): MAPS[0]}
    assert torch.equal(bench.gates(plan()), torch.cat([MASKS.flip(0), MASKS.flip(0)]))


def test_what_a_mask_is_told():
    bench = Bench(mask := Given(OWN), size=(2, 2))
    bench.lag.begin(3, 0.25)
    bench.gates(plan(), at=1)
    (view,) = mask.views
    assert (view.block, view.size, view.step, view.done) == ("b", (2, 2), 3, 0.25)
    assert view.rows == (Row(0, 0), Row(1, 0)) and view.active == ((True,), (True,)) and view.shape == (2, 1, 4)


# -- a listener


def test_a_listener_sees_what_is_made_and_when_an_evaluation_begins():
    class Listener(list):
        def begin(self):
            self.append("begin")

        def see(self, view, masks, maps):
            self.append((view.block, view.rows, masks, maps))

    bench = Bench(Given(OWN), heard := Listener())
    bench.lag.begin(0, 0.0)
    bench.gates(plan())
    first, (block, rows, masks, maps) = heard
    assert first == "begin" and block == "a" and rows == (Row(0, 0), Row(1, 0))
    assert torch.equal(masks, MASKS) and maps is None  # this mask asks for no maps


def test_the_recorder_counts_evaluations_and_unites_an_images_rows_however_they_come():
    for calls in ([[Row(0, 0), Row(0, 1), Row(0, None)]], [[Row(0, 1)], [Row(0, 0)], [Row(0, None)]]):
        recorder = MaskRecorder(2)
        bench = Bench(Given(PARTS), recorder)
        for step in range(3):
            bench.lag.begin(step, step / 3)
            plans = Plans(uses(images=1, parts=2))
            for rows in calls:
                bench.gates(plans.plan(rows, TOKENS))
        recorder.end()
        assert recorder.calls == {"a": 3} and recorder.maps == {}
        assert recorder.masks["a"].flatten(1).tolist() == [[3, 3, 0, 3], [0, 0, 0, 0]]
        assert recorder.of(0).mean().flatten().tolist() == [1, 1, 0, 1]
