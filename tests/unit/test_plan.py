"""What each row of an evaluation is given, in whatever calls it comes."""

import pytest
import torch
from lag_calls import Bench, Given

from lib_persres.concepts import Use
from lib_persres.errors import PersresError
from lib_persres.masks import above_median
from lib_persres.plan import Plans, Row, guidance_rows

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


def make(prompts, lag=True, mirror=True, now=None) -> Plans:
    """now: which concepts the parts name now, where that is less."""
    uses = []
    for parts, named in zip(prompts, now or prompts):
        used = set().union(*parts)
        found = [tuple((1 + k, 5) if k in part else () for part in named) for k in range(2)]
        uses.append([Use((0.5 + k) * (k in used), lag and k in used, found[k]) for k in range(2)])
    return Plans(uses, "mirror" if mirror else "base")


class Evaluation:
    """One evaluation, as the WebUI asks for it: in calls, and for missing masks before them."""

    def __init__(self, plans: Plans, binarize=above_median, early=False):
        self.plans, mask = plans, Given(MAPS, binarize)
        mask.early = early
        self.bench = Bench(mask, size=(2, 3))
        self.asked: list[Row] = []

    def _gates(self, rows: list[Row]) -> torch.Tensor:
        """(rows, K, PIXELS)"""
        plan = self.plans.plan(rows, TOKENS)
        if plan is None:
            return torch.zeros(len(rows), 2, PIXELS)
        return self.bench.gates(plan).expand(len(rows), 2, PIXELS)

    def call(self, rows: list[Row]) -> dict[Row, torch.Tensor]:
        if not self.bench.lag.mask.early and (missing := self.plans.missing(rows)):
            self.asked += missing
            self._gates(missing)
        return dict(zip(rows, self._gates(rows)))

    def calls(self, calls: list[list[Row]]) -> dict[Row, torch.Tensor]:
        return {row: gates for rows in calls for row, gates in self.call(rows).items()}


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
    plain = Evaluation(make(PROMPTS[name], lag=False, mirror=mirror)).calls([rows])
    for calls in cuts(rows):
        lag = Evaluation(make(PROMPTS[name], mirror=mirror), torch.ones_like).calls(calls)
        for row in rows:
            assert torch.equal(lag[row], plain[row]), (row, calls)


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize("name", PROMPTS)
def test_the_gates_do_not_hang_on_how_an_evaluation_is_cut_into_calls(name, mirror, early):
    rows = rows_of(PROMPTS[name])
    whole = Evaluation(make(PROMPTS[name], mirror=mirror)).calls([rows])
    for calls in cuts(rows):
        for row, gates in Evaluation(make(PROMPTS[name], mirror=mirror), early=early).calls(calls).items():
            assert torch.equal(gates, whole[row]), (row, calls)


def test_a_part_without_the_concept_takes_the_images_mask():
    rows = rows_of(prompts := [[{0}, {0}, set()]])
    gates = Evaluation(make(prompts)).calls([rows])
    masks = [above_median(MAPS[Row(0, part)][0]) * 0.5 for part in range(2)]
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
        evaluation = Evaluation(make(prompts))
        evaluation.calls(calls)
        assert evaluation.asked == asked
    # a base row takes no mask, and nothing is confined in plain sampling
    assert make(prompts, mirror=False).missing([unconditional]) == []
    assert make(prompts, lag=False).missing([without]) == []


def test_where_no_text_names_the_concept_now_lag_leaves_it_out():
    plans = make([[{0}, set()]], now=[[set(), set()]])
    rows = rows_of([[{0}, set()]])
    assert plans.missing(rows) == [] and plans.plan(rows, TOKENS) is None


# -- the data


def test_tokens_beyond_the_context_of_a_call_are_left_out():
    # a call's context may be cut to the length of its shortest
    plan = Plans([[Use(1.0, True, ((2, 80),))]]).plan([Row(0, 0)], TOKENS)
    assert plan.indicator.shape == (1, 1, TOKENS) and plan.indicator.nonzero().tolist() == [[0, 0, 2]]


def test_a_row_that_is_not_of_the_evaluation_is_the_base_models():
    plan = Plans([[Use(1.0, False)]]).plan([None, Row(0, 0), Row(0, None)], TOKENS)
    assert plan.strength.flatten().tolist() == [0, 1, 1] and not plan.localized


def test_a_call_in_which_nothing_acts_has_no_plan():
    for use in (Use(0.0, False, ((1,),)), Use(0.0, True, ((1,),))):
        assert Plans([[use, use]] * 2).plan(guidance_rows(2), TOKENS) is None
    assert Plans([[Use(1.0, False)]], "base").plan([Row(0, None)], TOKENS) is None


@pytest.mark.parametrize(
    "rows, places, viewed",
    [
        ([Row(0, 0), Row(1, 0), Row(0, None), Row(1, None)], (0, 1), True),
        ([Row(0, None), Row(1, 0), Row(1, None), Row(0, 0)], (1, 3), False),
        ([Row(1, 0)], (0,), True),
    ],
)
def test_the_makers_are_the_rows_whose_texts_name_a_concept(rows, places, viewed):
    plan = Plans([[Use(1.0, True, ((2, 3),))], [Use(1.0, True, ((4,),))]]).plan(rows, TOKENS)
    assert plan.places == places and plan.makers == tuple(rows[place] for place in places)
    some = torch.rand(len(rows), 5)
    found = plan.of_makers(some)
    assert torch.equal(found, some[list(places)]) and (found.untyped_storage().data_ptr() == some.data_ptr()) == viewed


def test_a_plan_says_which_concepts_act_where_for_masks_that_compete():
    uses = [[Use(1.0, True, ((2,), ())), Use(0.7, False, ((), (4,))), Use(0.0, True, ((5,), (5,)))]]
    plan = Plans(uses).plan([Row(0, 0), Row(0, 1)], TOKENS)
    assert plan.makers == (Row(0, 0), Row(0, 1))
    assert plan.active == ((True, False, False), (False, True, False))
    # the map of a concept that LAG does not confine is there, too
    assert plan.indicator[1, 1].nonzero().flatten().tolist() == [4]


def test_unconditional_rows_are_mirrors_or_the_bases_and_nothing_else():
    with pytest.raises(PersresError, match="uncond"):
        Plans([[Use(1.0, True)]], "uncond")
