"""JSON of any origin: what comes of it can be written again."""

import json

import pytest

from lib_persres import strict_json

WHOLE = ("-9223372036854775808", "18446744073709551615")


@pytest.mark.parametrize(
    "text", ["null", "true", '"é"', *WHOLE, "1e308", '{"a": [1, {"b": "\\u00e9"}]}', "[" * 32 + "]" * 32]
)
def test_ordinary_values_are_as_pythons_own(text):
    value = strict_json.loads(text)
    assert value == json.loads(text)
    strict_json.check(value)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "NaN", "Infinity", "-Infinity", "1e999", "[-1e999]", "1" * 401, "1" * 100_000),
        *("18446744073709551616", '"\\ud800"', '{"\\udfff": 1}', '["a\\ud83d"]'),
        *('{"a": 1, "a": 1}', '[{"b": {"a": 1, "c": 2, "a": 3}}]', '{"\\u0061": 1, "a": 1}'),
        *("[" * 33 + "]" * 33, "[" * 100_000, '{"a":' * 40 + "1" + "}" * 40),
    ],
)
def test_what_could_not_be_written_again_is_refused(text):
    with pytest.raises(ValueError):
        strict_json.loads(text)


@pytest.mark.parametrize("text", ["1" * 401, "1e999", "NaN", '"\\ud800"', "[" * 33 + "]" * 33, "18446744073709551616"])
def test_read_leniently_it_is_found_by_the_check(text):
    value = strict_json.decode_leniently(text)
    with pytest.raises(ValueError):
        strict_json.check(value)


def test_no_number_is_read_that_takes_its_digits_squared(monkeypatch):
    read = []
    monkeypatch.setattr(strict_json, "int", lambda text: read.append(len(text)) or 0, raising=False)
    with pytest.raises(ValueError):
        strict_json.loads("[1, 22, " + "3" * 100_000 + "]")
    assert strict_json.decode_leniently("[1, 22, " + "3" * 100_000 + "]")[2] == float("inf")
    assert max(read) == 2
