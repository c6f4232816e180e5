"""What each row of an evaluation is given, in whatever calls it comes; no WebUI is needed for it."""

import pytest
import torch

from lib_persres.lag import median_mask
from lib_persres.webui.generation.plans import Plans
from lib_persres.webui.generation.rows import Row

PIXELS, TOKENS = 6, 77
MAPS = {
    row: torch.rand(2, PIXELS, generator=torch.Generator().manual_seed(seed))
    for seed, row in enumerate(Row(image, part) for image in range(2) for part in range(3))
}
# which of two concepts each part of each image names
PROMPTS = {
    "one part": [[{0, 1}]],
    "V* in the first part": [[{0}, set()]],
    "V* in the last part": [[set(), set(), {0}]],
    "a concept in each part": [[{0}, {1}]],
    "one in both, one in the second, none in the third": [[{0}, {0, 1}, set()]],
    "two images": [[set(), {0}], [{1}]],
    "an image without a concept": [[set()], [set(), {0, 1}]],
}


def rows_of(prompts) -> list[Row]:
    rows = [Row(image, part) for image, parts in enumerate(prompts) for part in range(len(parts))]
    return rows + [Row(image, None) for image in range(len(prompts))]


def make(prompts, mask, lag=True, mirror=True) -> Plans:
    plans = Plans([len(parts) for parts in prompts], 2, mirror, mask)
    for image, parts in enumerate(prompts):
        for k in range(2):
            if any(k in part for part in parts):
                plans.strength[image, k], plans.gated[image, k] = 0.5 + k, lag
            for number, part in enumerate(parts):
                plans.indices[image, number, k] = (1 + k, 5) if k in part else ()
    return plans


def gates_of(plans: Plans, rows: list[Row]) -> torch.Tensor | None:
    """The gates (rows, K, PIXELS) of one call of the UNet."""
    plan = plans.plan(rows, TOKENS)
    if plan is None:
        return torch.zeros(len(rows), 2, PIXELS)
    maps = None
    if plan.makes_maps:
        makes = [row for row, own in zip(rows, plan.map_rows.tolist()) if own]
        # the map of a concept without tokens in the text is zero, as attention gives it
        named = torch.stack([torch.tensor([plans.names(row, k) for k in range(2)]) for row in makes])
        maps = torch.stack([MAPS[row] for row in makes]) * named[..., None]
    return plan.gates("a", maps).expand(len(rows), 2, PIXELS)


def evaluate(plans: Plans, calls: list[list[Row]]) -> dict[Row, torch.Tensor]:
    """Each row's gates, as `Sampling` asks for them."""
    gates = {}
    for rows in calls:
        if late := plans.late(rows):
            gates_of(plans, late)
        gates |= dict(zip(rows, gates_of(plans, rows)))
    return gates


def cuts(rows: list[Row]):
    """An evaluation in one call, row by row, backwards, conds and unconds apart, and mixed."""
    singles = [[row] for row in rows]
    yield [rows]
    yield [rows[::-1]]
    yield singles
    yield singles[::-1]
    yield [[row for row in rows if row.part is None], [row for row in rows if row.part is not None]]
    for size in (2, 3):
        yield [rows[start : start + size] for start in range(0, len(rows), size)]


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize("name", PROMPTS)
def test_lag_with_masks_of_ones_is_plain_sampling_for_every_row_in_every_order(name, mirror):
    rows = rows_of(PROMPTS[name])
    plain = evaluate(make(PROMPTS[name], median_mask, lag=False, mirror=mirror), [rows])
    for calls in cuts(rows):
        lag = evaluate(make(PROMPTS[name], torch.ones_like, mirror=mirror), calls)
        for row in rows:
            assert torch.equal(lag[row], plain[row]), (row, calls)


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize("name", PROMPTS)
def test_the_gates_do_not_hang_on_how_an_evaluation_is_cut_into_calls(name, mirror):
    rows = rows_of(PROMPTS[name])
    whole = evaluate(make(PROMPTS[name], median_mask, mirror=mirror), [rows])
    for calls in cuts(rows):
        for row, gates in evaluate(make(PROMPTS[name], median_mask, mirror=mirror), calls).items():
            assert torch.equal(gates, whole[row]), (row, calls)


def test_a_part_without_the_concept_takes_the_images_mask():
    rows = rows_of(prompts := [[{0}, {0}, set()]])
    gates = evaluate(make(prompts, median_mask), [rows])
    masks = [median_mask(MAPS[Row(0, part)][0]) * 0.5 for part in range(2)]
    for part in range(2):
        assert torch.equal(gates[Row(0, part)][0], masks[part])  # those that name it keep their own
    for row in (Row(0, 2), Row(0, None)):
        assert torch.equal(gates[row][0], torch.maximum(*masks))
        assert not torch.equal(*masks)


def test_only_what_a_call_needs_and_does_not_have_is_asked_for_before_it():
    prompts = [[set(), {0}]]
    without, with_it, unconditional = rows_of(prompts)
    for calls, asked in (
        ([[without, with_it, unconditional]], []),
        ([[with_it], [without], [unconditional]], []),
        ([[without], [with_it], [unconditional]], [with_it]),
        ([[unconditional], [with_it, without]], [with_it]),
        ([[unconditional], [without], [with_it]], [with_it]),
    ):
        plans, seen = make(prompts, median_mask), []
        for rows in calls:
            seen += plans.late(rows)
            gates_of(plans, plans.late(rows)) if plans.late(rows) else None
            gates_of(plans, rows)
        assert seen == asked
    # a base row takes no mask, and nothing is confined in plain sampling
    assert make(prompts, median_mask, mirror=False).late([unconditional]) == []
    assert make(prompts, median_mask, lag=False).late([without]) == []


def test_where_no_text_names_the_concept_now_lag_leaves_it_out():
    plans = make([[{0}, set()]], median_mask)
    for number in range(2):
        plans.indices[0, number, 0] = ()
    rows = rows_of([[{0}, set()]])
    assert plans.late(rows) == [] and plans.plan(rows, TOKENS) is None
