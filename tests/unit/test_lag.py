import pytest
import torch

from lib_persres.errors import PersresError
from lib_persres.lag import Plan, guidance_plan, median_mask

# -- the median mask


def test_median_mask_by_hand():
    maps = torch.tensor([[0.1, 0.7, 0.3, 0.2], [4.0, 1.0, 2.0, 3.0]])
    assert median_mask(maps).tolist() == [[0, 1, 1, 0], [1, 0, 0, 1]]
    # five values: the median, 0.3, is not above itself
    assert median_mask(torch.tensor([0.5, 0.3, 0.1, 0.4, 0.2])).tolist() == [1, 0, 0, 1, 0]
    # ties with the median stay out
    assert median_mask(torch.tensor([1.0, 1.0, 1.0, 2.0])).tolist() == [0, 0, 0, 1]
    assert median_mask(torch.zeros(4)).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("pixels", [2, 63, 64, 96])
def test_median_mask_selects_half_of_distinct_values_and_the_highest_ones(pixels):
    generator = torch.Generator().manual_seed(pixels)
    maps = torch.stack([torch.randperm(pixels, generator=generator) for _ in range(6)]).view(2, 3, pixels)
    maps = maps / pixels
    masks = median_mask(maps)
    assert set(masks.unique().tolist()) <= {0.0, 1.0}
    assert (masks.sum(-1) == pixels // 2).all()
    assert torch.equal(masks, (maps * pixels >= pixels - pixels // 2).float())


# -- gates

MAPS = torch.tensor([[[0.1, 0.9, 0.2, 0.8]], [[0.9, 0.8, 0.1, 0.2]]])  # (2 images, 1 concept, 4 pixels)
MASKS = torch.tensor([[[0.0, 1, 0, 1]], [[1.0, 1, 0, 0]]])


def ones(*shape):
    return torch.ones(*shape)


def yes(*shape):
    return torch.ones(*shape, dtype=torch.bool)


def conditional_row(image, **options):
    """The plan of a call that is one conditional row of one image."""
    return Plan(ones(1, 1), yes(1, 1), ones(1, 1, 5), yes(1), torch.tensor([image]), **options)


def test_unconditional_row_takes_its_own_images_mask():
    plan = guidance_plan(ones(2, 1), yes(2, 1), ones(2, 1, 5))
    gates = plan.gates("a", MAPS)
    assert torch.equal(gates, torch.cat([MASKS, MASKS]))


def test_unconditional_rows_on_base_have_no_gate_and_rows_without_guidance_are_conditional():
    plan = guidance_plan(ones(2, 1), yes(2, 1), ones(2, 1, 5), unconditional="base")
    assert torch.equal(plan.gates("a", MAPS), torch.cat([MASKS, torch.zeros_like(MASKS)]))
    plan = guidance_plan(ones(2, 1), yes(2, 1), ones(2, 1, 5), unconditional=None)
    assert torch.equal(plan.gates("a", MAPS), MASKS)
    with pytest.raises(PersresError, match="uncond"):
        guidance_plan(ones(2, 1), yes(2, 1), ones(2, 1, 5), unconditional="uncond")


def test_base_holds_for_plain_sampling_too():
    plan = guidance_plan(ones(2, 1), ~yes(2, 1), None, unconditional="base")
    assert plan.gates("a", None).flatten().tolist() == [1, 1, 0, 0]


def test_rows_in_any_order_take_their_groups_mask():
    # [uncond 0, cond 1, uncond 1, cond 0]: the map rows come in the order 1, 0
    plan = Plan(
        strength=ones(4, 1),
        gated=yes(4, 1),
        indicator=ones(4, 1, 5),
        map_rows=torch.tensor([False, True, False, True]),
        group=torch.tensor([0, 1, 1, 0]),
    )
    gates = plan.gates("a", MAPS.flip(0))
    assert torch.equal(gates, torch.stack([MASKS[0], MASKS[1], MASKS[1], MASKS[0]]))


def test_strengths_and_plain_concepts_hold_in_each_row():
    strength = torch.tensor([[0.5, 2.0], [1.0, 0.0]])
    gated = torch.tensor([[True, False], [True, True]])
    plan = guidance_plan(strength, gated, ones(2, 2, 5))
    maps = torch.cat([MAPS, MAPS.flip(0)], dim=1)  # the second concept has the other image's map
    gates = plan.gates("a", maps)
    for row, image in enumerate([0, 1, 0, 1]):
        assert torch.equal(gates[row, 0], strength[image, 0] * MASKS[image, 0])
    assert torch.equal(gates[0, 1], torch.full((4,), 2.0)) and torch.equal(gates[0], gates[2])
    assert not gates[1, 1].any() and not gates[3, 1].any()


def test_composed_prompts_keep_their_own_masks_and_the_unconditional_row_takes_their_union():
    plan = Plan(
        strength=ones(3, 1),
        gated=yes(3, 1),
        indicator=ones(3, 1, 5),
        map_rows=torch.tensor([True, True, False]),
        group=torch.tensor([0, 0, 0]),
    )
    gates = plan.gates("a", MAPS)
    assert torch.equal(gates[:2], MASKS)
    assert gates[2, 0].tolist() == [1, 1, 0, 1]


def test_unconditional_rows_may_come_in_a_call_of_their_own():
    conditional = guidance_plan(ones(2, 1), yes(2, 1), ones(2, 1, 5), unconditional=None, memory={})
    conditional.gates("a", MAPS)
    later = Plan(
        strength=ones(2, 1),
        gated=yes(2, 1),
        indicator=torch.zeros(2, 1, 9),
        map_rows=~yes(2),
        group=torch.arange(2),
        memory=conditional.memory,
    )
    assert torch.equal(later.gates("a", None), MASKS)
    with pytest.raises(PersresError, match="b"):
        later.gates("b", None)


def test_conditional_rows_may_come_one_image_at_a_time():
    memory = {}
    for image in range(2):
        part = conditional_row(image, memory=memory)
        assert torch.equal(part.gates("a", MAPS[image : image + 1])[0], MASKS[image])
    later = Plan(ones(2, 1), yes(2, 1), ones(2, 1, 5), ~yes(2), torch.arange(2), memory=memory)
    assert torch.equal(later.gates("a", None), MASKS)


def test_the_parts_of_a_composed_prompt_may_come_in_calls_of_their_own():
    memory, seen = {}, []
    for part in range(2):
        plan = conditional_row(
            3, memory=memory, recorder=lambda block, masks, maps, size: seen.append(masks.clone())
        )
        assert torch.equal(plan.gates("a", MAPS[part : part + 1])[0], MASKS[part])  # each keeps its own mask
    later = Plan(ones(1, 1), yes(1, 1), ones(1, 1, 5), ~yes(1), torch.tensor([3]), memory=memory)
    assert later.gates("a", None)[0, 0].tolist() == [1, 1, 0, 1]
    assert torch.equal(seen[0][0], MASKS[0]) and seen[1][0, 0].tolist() == [1, 1, 0, 1]


def test_a_plan_without_memory_keeps_nothing_from_one_evaluation_to_the_next():
    plan = guidance_plan(ones(2, 1), yes(2, 1), ones(2, 1, 5))
    plan.gates("a", MAPS.flip(0))
    assert torch.equal(plan.gates("a", MAPS), torch.cat([MASKS, MASKS]))


def test_composed_prompts_of_a_later_image_keep_their_own_masks():
    # only the second image's two prompts are in this call
    plan = Plan(ones(2, 1), yes(2, 1), ones(2, 1, 5), yes(2), torch.tensor([1, 1]))
    assert torch.equal(plan.gates("a", MAPS), MASKS)


def test_a_call_without_lag_needs_no_tokens_and_lag_does():
    plan = Plan(torch.full((2, 1), 0.5), ~yes(2, 1))
    assert torch.equal(plan.gates("a", None), torch.full((2, 1, 1), 0.5))
    with pytest.raises(PersresError, match="tokens"):
        Plan(ones(2, 1), yes(2, 1))


def test_recorder_sees_masks_maps_and_the_size():
    seen = []
    plan = guidance_plan(ones(2, 1), yes(2, 1), ones(2, 1, 5), recorder=lambda *a: seen.append(a))
    plan.gates("a", MAPS, (1, 4))
    ((block, masks, maps, size),) = seen
    assert block == "a" and size == (1, 4)
    assert torch.equal(masks, MASKS) and torch.equal(maps, MAPS)


def test_another_mask_function_is_used():
    plan = guidance_plan(ones(2, 1), yes(2, 1), ones(2, 1, 5), mask=lambda maps: maps * 0.5)
    assert torch.equal(plan.gates("a", MAPS)[:2], MAPS * 0.5)
