"""The script's arguments as the UI and the API give them; no WebUI is needed for it."""

from dataclasses import fields

import pytest

from lib_persres.errors import PersresError
from lib_persres.webui.settings import Settings

OFF = Settings(enabled=False, lag="off")
DEFAULTS = [False, True, "fitted", "mirror", 1.0, False]


@pytest.mark.parametrize("args", [[], [False], [None], DEFAULTS, [None] * 6, [False, True, "fitted", "base", 2, True]])
def test_off(args):
    assert Settings.from_args(args) == OFF


def test_values_in_a_row():
    assert Settings.from_args([True]) == Settings(enabled=True, lag="auto")
    assert Settings.from_args([True, False, "median", "base", 0, True]) == Settings(
        True, False, "median", "base", 0, True
    )


@pytest.mark.parametrize("given, lag", [(True, "on"), (False, "off"), ("on", "on"), ("off", "off"), ("auto", "auto")])
def test_lag_is_on_off_or_auto_and_takes_true_and_false(given, lag):
    assert Settings.from_args([{"lag": given}]).lag == Settings.from_args([True, given]).lag == lag


def test_a_dict_switches_it_on_and_missing_or_null_values_are_the_defaults():
    assert Settings.from_args([{}]) == Settings(enabled=True)
    assert Settings.from_inputs([{"lag": False, "mask": None}, *DEFAULTS[1:]]) == Settings(enabled=True, lag=False)
    assert Settings.from_args([{"enabled": False}]) == OFF


@pytest.mark.parametrize("name", [field.name for field in fields(Settings)])
def test_null_is_the_same_as_left_out_for_every_field(name):
    given = {"enabled": True, "lag": False, "mask": "median", "unconditional": "base", "strength": 0.5}
    given["show_masks"] = True
    without = {key: value for key, value in given.items() if key != name}
    assert Settings.from_args([{**given, name: None}]) == Settings.from_args([without])
    assert Settings.from_args([{name: None}]) == Settings(enabled=True)
    # the request's infotext says what is left out
    behind = [False, "median", "base", 0.5, True]
    assert Settings.from_inputs([{name: None}, *behind]) == Settings.from_inputs([{}, *behind])
    row = [given[key] for key in given]
    place = list(given).index(name)
    default = getattr(Settings(), name)
    assert Settings.from_args([*row[:place], None, *row[place + 1 :]]) == Settings.from_args(
        [*row[:place], default, *row[place + 1 :]]
    )


def deep(levels: int):
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


ODD = [10**400, -(10**400), 10**5000, float("nan"), float("inf"), 1e300, deep(900), deep(9000), [], {}]
ODD += [{"a": deep(900)}, "", "x" * 10**6, "\ud800", "\0", "10" * 400, [True], [None], (1,)]


@pytest.mark.parametrize("place, name", list(enumerate(field.name for field in fields(Settings))))
def test_odd_values_are_refused_in_one_sentence(place, name):
    for value in ODD:
        for args in ([{name: value}], [None] * place + [value], [{name: value}, None]):
            if isinstance(value, dict) and args == [value]:
                continue  # a dict in the first place is the dict
            with pytest.raises(PersresError) as error:
                Settings.from_args(args)
            assert str(error.value).startswith(f"Personalized Residuals: {name} is ") and len(str(error.value)) <= 200
            if isinstance(args[0], dict):
                with pytest.raises(PersresError, match=f"{name} is "):
                    Settings.from_inputs([*args[:1], True, "median", "mirror", 1.0, False])


@pytest.mark.parametrize("off", [[], [None], [False, True], [{"enabled": False}]])
@pytest.mark.parametrize(
    "default, with_it, without_it", [("accordion", "auto", "off"), ("always", "auto", "auto"), ("never", "off", "off")]
)
def test_the_default_of_lag(off, default, with_it, without_it):
    assert Settings.from_args(off, default).lag == without_it
    for on in ([True], [True, None], [{}], [{"lag": None}]):
        assert Settings.from_args(on, default) == Settings(True, with_it)
    assert Settings.from_args([True, True], default).lag == "on"
    assert Settings.from_args([{"lag": False}], default).lag == "off"


def test_a_dict_wins_over_what_the_webui_puts_behind_it():
    behind = [False, "median", "base", 0.5, True]
    assert Settings.from_inputs([{"strength": 2, "lag": None}, *behind], "never") == Settings(
        True, False, "median", "base", 2, True
    )
    assert Settings.from_inputs([{}, None, None]) == Settings(enabled=True)
    assert Settings.from_inputs([True, False]) == Settings.from_args([True, False])
    with pytest.raises(PersresError, match="laag"):
        Settings.from_inputs([{"laag": 1}, *behind])


@pytest.mark.parametrize(
    "args, words",
    [
        ([{"laag": 1}], "laag.*knows enabled, lag"),
        ([{1: 1}], "does not know 1"),
        ([{"lag": 1}], "lag is '1'"),
        (["true"], "enabled is 'true'"),
        ([[True]], "enabled"),
        ([{"mask": "x"}], "mask is 'x'; allowed is 'fitted' or 'median'"),
        ([{"mask": ["median"]}], "mask"),
        ([{"unconditional": "cond"}], "'mirror' or 'base'"),
        ([{"strength": True}], "strength"),
        ([{"strength": float("nan")}], "strength"),
        ([{"strength": 1e9}], "from -100 to 100"),
        ([{}, False], "not both"),
        ([{}, True], "not both"),
        ([False, "no"], "lag is 'no'"),
        ([False] * 7, "takes 6 values"),
    ],
)
def test_what_is_not_understood_is_refused(args, words):
    with pytest.raises(PersresError, match=words):
        Settings.from_args(args)
