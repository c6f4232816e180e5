"""Orderings of a suite, tested on made-up rows: verdicts, which column decides, what is not measured."""

import pandas as pd
import pytest
from evaluation_run import row

from lib_persres.evaluation.report.orderings import orderings
from lib_persres.evaluation.report.results import counted
from lib_persres.evaluation.suite import Claim

STATED = {"higher": "a", "lower": "b", "score": "image", "source": "Table 5"}


def rows_of(a: dict, b: dict, concepts: int = 4, **more) -> list[dict]:
    """The same scores for each concept, but for a wobble that the two methods share."""
    rows = []
    for index in range(concepts):
        for method, scores in (("a", a), ("b", b)):
            shared = {name: value + index / 10 for name, value in scores.items()}
            rows.append(row(method, f"c{index}", **{**more, **shared}))
    return rows


def outcome(rows: list[dict], **changes):
    (found,) = orderings(counted(pd.DataFrame(rows)), [Claim(**{**STATED, **changes})])
    return found


def verdict(rows: list[dict], **changes) -> str:
    return outcome(rows, **changes).verdict


def test_the_difference_is_paired_by_concept():
    found = outcome(rows_of({"clip_image": 0.6}, {"clip_image": 0.5}))
    assert list(found.found) == ["clip_image"] and found.found["clip_image"].count == 4
    # concepts differ by more than methods, and yet the paired interval has no width
    column = found.found["clip_image"]
    assert (column.mean, column.low, column.high) == pytest.approx((0.1, 0.1, 0.1))
    assert str(found.claim) == "a > b in image"


def test_verdicts():
    assert verdict(rows_of({"clip_image": 0.6}, {"clip_image": 0.5})) == "reproduced"
    assert verdict(rows_of({"clip_image": 0.5}, {"clip_image": 0.6})) == "reversed"
    assert verdict(rows_of({"clip_image": 0.5}, {"clip_image": 0.5})) == "unclear"


def test_one_concept_is_unclear():
    assert verdict(rows_of({"clip_image": 0.9}, {"clip_image": 0.1}, concepts=1)) == "unclear"


def test_the_first_column_decides_unless_another_reverses_it():
    low = {"clip_image": 0.5, "identity": 0.5}
    assert verdict(rows_of({"clip_image": 0.6, "identity": 0.5}, low)) == "reproduced"
    assert verdict(rows_of({"clip_image": 0.6, "identity": 0.4}, low)) == "contradicted"
    assert verdict(rows_of({"clip_image": 0.5, "identity": 0.6}, low)) == "unclear"
    assert verdict(rows_of({"clip_image": 0.4, "identity": 0.6}, low)) == "reversed"


def test_without_clip_the_truth_decides():
    assert verdict(rows_of({"identity": 0.6}, {"identity": 0.5})) == "reproduced"
    assert verdict(rows_of({"obeyed": 0.6}, {"obeyed": 0.5}), score="text") == "reproduced"


def test_a_missing_method_column_or_common_concept_is_not_measured():
    rows = rows_of({"clip_image": 0.6}, {"clip_image": 0.5})
    assert verdict(rows, higher="gone") == "not measured"
    assert verdict(rows, score="text") == "not measured"
    apart = [r for r in rows if (r["method"] == "a") == (r["concept"] in ("c0", "c1"))]
    assert verdict(apart) == "not measured"


def test_only_the_stated_categories_count():
    rows = rows_of({"clip_image": 0.6}, {"clip_image": 0.5}, category="identity")
    rows += rows_of({"clip_image": 0.1}, {"clip_image": 0.9}, category="artistic style", prompt=1)
    assert verdict(rows) == "reversed"
    assert verdict(rows, categories=("identity", "add object")) == "reproduced"
    assert verdict(rows, categories=("add object",)) == "not measured"


def test_prompts_without_v_and_tuned_concepts_do_not_count():
    rows = rows_of({"clip_image": 0.6}, {"clip_image": 0.5})
    rows += rows_of({"clip_image": 0.0}, {"clip_image": 0.9}, category="without V*", prompt=1)
    rows += [row(m, "nell", tuned=True, clip_image=v) for m, v in (("a", 0.0), ("b", 9.0))]
    assert verdict(rows) == "reproduced"
