"""Intervals and orderings: closed forms, coverage, pairing."""

import math

import numpy as np
import pandas as pd
import pytest

from lib_persres.evaluation.statistics import bootstrap, difference, means


def test_equal_values_have_an_interval_of_no_width():
    found = bootstrap([0.3] * 5)
    assert (found.mean, found.low, found.high, found.count) == pytest.approx((0.3, 0.3, 0.3, 5))


def test_the_interval_is_the_seeds_and_no_other_states():
    values = np.random.default_rng(1).normal(size=12)
    np.random.seed(3)
    first = bootstrap(values, draws=500)
    assert first == bootstrap(values, draws=500) != bootstrap(values, draws=500, seed=1)


def test_the_width_is_that_of_the_normal_law_for_many_values():
    values = np.random.default_rng(2).normal(5, 2, 400)
    found = bootstrap(values)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.05)


def test_about_95_of_100_intervals_hold_the_true_mean():
    rng = np.random.default_rng(4)
    held = [(f := bootstrap(rng.normal(1, 1, 30), draws=400, seed=i)).low <= 1 <= f.high for i in range(400)]
    assert 0.89 < np.mean(held) < 0.98


def test_two_values_give_the_resamples_own_quantiles():
    # the mean of two draws from {0, 1} is 0, ½, ½, 1 with equal chances
    found = bootstrap([0.0, 1.0], level=0.4)
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)
    assert (bootstrap([0.0, 1.0]).low, bootstrap([0.0, 1.0]).high) == (0.0, 1.0)


def test_one_concept_has_no_interval_and_is_never_clear():
    found = bootstrap([0.7])
    assert found.mean == 0.7 and math.isnan(found.low) and found.verdict == "unclear"


def test_bad_values_are_refused():
    for values, says in (([], "no values"), ([1.0, math.nan], "not finite")):
        with pytest.raises(ValueError, match=says):
            bootstrap(values)
    with pytest.raises(ValueError, match="level"):
        bootstrap([1.0, 2.0], level=95)


def test_pairing_sees_what_the_spread_of_concepts_hides():
    rng = np.random.default_rng(0)
    level = pd.Series({f"c{i}": rng.normal(0, 1) for i in range(12)})
    table = pd.DataFrame({"a": level + 0.1 + rng.normal(0, 0.02, 12), "b": level})
    found = difference(table, "a", "b")
    assert found.verdict == "reproduced" and found.mean == pytest.approx(0.1, abs=0.03)
    # only shared concepts count
    table.loc["x"], table.loc["y"] = {"a": 5.0}, {"b": 1.0}
    assert difference(table, "a", "b") == found
    assert difference(table.loc[["x", "y"]], "a", "b") is None and difference(table, "a", "c") is None


def test_a_difference_is_reproduced_reversed_or_unclear():
    table = pd.DataFrame(
        {
            "up": [0.7 + 0.01 * (i % 3) for i in range(8)],
            "down": [0.6 + 0.01 * (i % 2) for i in range(8)],
            "same": [0.6 + 0.01 * (i % 2) + (-1) ** (i // 2) * 0.1 for i in range(8)],
        }
    )
    found = [difference(table, *pair).verdict for pair in (("up", "down"), ("down", "up"), ("same", "down"))]
    assert found == ["reproduced", "reversed", "unclear"]


def test_rows_are_averaged_by_concept_within_what_is_asked():
    rows = pd.DataFrame(
        [
            {"method": "base", "concept": "rex", "category": "identity", "x": 1.0},
            {"method": "base", "concept": "rex", "category": "identity", "x": 0.0},
            {"method": "base", "concept": "rex", "category": "add object", "x": 0.0},
            {"method": "base", "concept": "pip", "category": "identity", "x": None},
            {"method": "lag", "concept": "pip", "category": "identity", "x": math.nan},
            {"method": "lag", "concept": "rex", "category": "identity"},
        ]
    )
    assert means(rows, "x", category="identity").to_dict() == {"base": {"rex": 0.5}}
    assert means(rows, "x", category=["identity", "add object"])["base"]["rex"] == pytest.approx(1 / 3)
    assert means(rows, "y").empty
