"""Figures are measured, printed and recorded; their goals are bounds."""

import io
import json
from pathlib import Path

import pytest

import dev
from benchmarks import figures

ROOT = Path(dev.__file__).resolve().parent


REGISTRY = (
    figures.Figure("a.share", ">= 0.90", "a share", "one:both"),
    figures.Figure("a.drop", "<= 0.05", "a drop", "one:both"),
    figures.Figure("b.count", "== 3", "a count", "two:count"),
    figures.Figure("c.broken", ">= 1", "never comes", "three:broken"),
)


class Measures:
    """Stands for the imports: "module:function" to a function that counts its calls."""

    def __init__(self, **values):
        self.calls = []
        self.values = {
            "one:both": {"a.share": 0.95, "a.drop": (0.07, "smaller form")},
            "two:count": {"b.count": 3},
        }
        self.values.update({name.replace("__", ":"): value for name, value in values.items()})

    def __call__(self, target):
        def function():
            self.calls.append(target)
            print("noise of a measurement")
            if target not in self.values:
                raise RuntimeError("no such luck")
            return self.values[target]

        return function


@pytest.fixture
def measured(tmp_path):
    """run(*arguments) -> (status, printed JSON objects, record, the measures called)."""
    path = tmp_path / "docs" / "figures.json"

    def run(*arguments, measures=None):
        measures, out = measures or Measures(), io.StringIO()
        status = figures.main(arguments, REGISTRY, path, measures, out)
        return status, [json.loads(line) for line in out.getvalue().splitlines()], path, measures.calls

    return run


def test_figures_of_one_measurement_are_measured_once(measured):
    status, lines, _, calls = measured("a.drop", "a.share", "b.count")
    assert status == 0
    assert calls == ["one:both", "two:count"]
    values = [(line["name"], line["value"]) for line in lines]
    assert values == [("a.share", 0.95), ("a.drop", 0.07), ("b.count", 3)]
    assert all(line["seconds"] >= 0 for line in lines)
    assert [line.get("note") for line in lines] == [None, "smaller form", None]


def test_only_json_lines_reach_the_standard_output(capsys, tmp_path):
    figures.main(["a.*"], REGISTRY, tmp_path / "figures.json", Measures())
    shown = capsys.readouterr()
    assert [json.loads(line)["name"] for line in shown.out.splitlines()] == ["a.share", "a.drop"]
    assert "noise" in shown.err


def test_patterns_choose_figures_in_the_registrys_order():
    chosen, unknown = figures.select(["b.*", "a.s*", "x.*"], REGISTRY)
    assert [figure.name for figure in chosen] == ["a.share", "b.count"]
    assert unknown == ["x.*"]


def test_an_unknown_name_is_refused_before_anything_is_measured(measured, capsys):
    status, lines, _, calls = measured("a.share", "a.shore")
    assert (status, lines, calls) == (2, [], [])
    shown = capsys.readouterr().err
    assert "There is no figure 'a.shore'" in shown and "b.count" in shown


def test_a_failure_is_a_line_and_the_others_are_measured_all_the_same(measured):
    status, lines, _, _ = measured("c.broken", "b.count")
    assert status == 1
    assert {line["name"]: line.get("error") for line in lines} == {
        "b.count": None,
        "c.broken": "RuntimeError: no such luck",
    }
    assert "value" not in lines[1]


@pytest.mark.parametrize(
    "returned, error",
    [
        ({}, "did not measure it"),
        (3, "returned int"),
        ({"b.count": float("nan")}, "not a finite number"),
        ({"b.count": None}, "not a finite number"),
    ],
)
def test_a_measurement_that_gives_no_number_is_a_failure(measured, returned, error):
    status, lines, _, _ = measured("b.count", measures=Measures(two__count=returned))
    assert status == 1
    assert error in lines[0]["error"]


def test_numpy_numbers_are_numbers(measured):
    numpy = pytest.importorskip("numpy")
    _, lines, _, _ = measured("b.count", measures=Measures(two__count={"b.count": numpy.float32(0.5)}))
    assert lines[0]["value"] == 0.5


def test_values_are_recorded_only_when_asked(measured):
    _, _, path, _ = measured("a.*")
    assert not path.exists()
    measured("a.*", "--record")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert list(record) == [figure.name for figure in REGISTRY]
    assert record["a.drop"]["value"] == 0.07
    assert record["a.drop"]["note"] == "smaller form"
    assert record["a.drop"]["goal"] == "<= 0.05"
    assert record["a.drop"]["command"] == "python dev.py figures a.drop --record"
    assert len(record["a.drop"]["date"]) == len("2000-01-01")
    assert record["b.count"]["value"] is None


def test_a_failure_leaves_the_last_recorded_value(measured):
    measured("b.count", "--record")
    status, _, path, _ = measured("b.count", "--record", measures=Measures(two__count={}))
    assert status == 1
    assert json.loads(path.read_text(encoding="utf-8"))["b.count"]["value"] == 3


def test_a_new_measurement_forgets_the_old_note(measured):
    measured("a.drop", "--record")
    _, _, path, _ = measured("a.drop", "--record", measures=Measures(one__both={"a.drop": 0.01}))
    assert "note" not in json.loads(path.read_text(encoding="utf-8"))["a.drop"]


def test_without_names_every_figure_is_listed_with_its_last_value(measured, tmp_path):
    measured("a.*", "--record")
    out, measures = io.StringIO(), Measures()
    assert figures.main([], REGISTRY, tmp_path / "docs" / "figures.json", measures, out) == 0
    assert measures.calls == []
    header, share, drop, count, broken = out.getvalue().splitlines()
    assert share.split()[:5] == ["a.share", ">=", "0.90", "0.95", "yes"]
    assert drop.split()[:5] == ["a.drop", "<=", "0.05", "0.07", "no"]
    assert count.split()[:6] == ["b.count", "==", "3", "-", "-", "never"]
    column = header.index("meaning")
    assert [line[column:] for line in (share, broken)] == ["a share", "never comes"]


@pytest.mark.parametrize(
    "text, value, reached",
    [
        (">= 0.5", 0.5, True),
        (">= 0.5", 0.49, False),
        ("<= 1", 1.1, False),
        ("== 3", 3, True),
        ("== 3", 4, False),
    ],
)
def test_goals_are_bounds(text, value, reached):
    assert figures.Goal.parse(text).reached(value) is reached


def test_the_projects_figures_are_well_formed_and_recorded_with_their_goals():
    record = figures.read_record(figures.RECORD)
    assert list(record) == [figure.name for figure in figures.FIGURES]
    for figure in figures.FIGURES:
        assert figure.goal.operator in figures.OPERATORS
        assert figure.measure.count(":") == 1
        assert record[figure.name]["goal"] == figure.goal_text
