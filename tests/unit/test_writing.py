"""Files that are whole or not there."""

import pytest

from lib_persres.errors import PersresError
from lib_persres.webui.training.record import Record
from lib_persres.writing import replacing, write_whole

RECORD = {"request": {"concept": "rex", "macro_class": "dog"}, "images": ["a"]}


def test_files_whose_long_names_begin_alike_do_not_spoil_one_another(tmp_path):
    one, other = tmp_path / f"{'n' * 60}-a.bin", tmp_path / f"{'n' * 60}-b.bin"
    with replacing(one) as file:
        file.write(b"A" * 10)
        file.flush()
        write_whole(other, b"B" * 5)
        file.write(b"A" * 10)
    assert one.read_bytes() == b"A" * 20 and other.read_bytes() == b"B" * 5
    assert sorted(path.name for path in tmp_path.iterdir()) == [one.name, other.name]


def test_what_a_record_holds_too_deep_or_too_much_of_is_left_out_and_said():
    deep: list = []
    for _ in range(600):
        deep = [deep]
    pace = {"row_seconds": 1.0, "side": 64, "unet": 1}
    assert Record.from_json({**RECORD, "pace": pace}).pace == pace
    for damage in ({"pace": {**pace, "x": deep}}, {"curve": [1] * 100_000}):
        record = Record.from_json({**RECORD, **damage})
        assert record.pace is None and record.curve == [] and next(iter(damage)) in record.message
    shown = Record.from_json({**RECORD, "message": "\x1b[31m" + "x" * 4000}).message
    assert shown.isprintable() and len(shown) <= 3000
    with pytest.raises(PersresError):
        Record.from_json({**RECORD, "images": deep})
