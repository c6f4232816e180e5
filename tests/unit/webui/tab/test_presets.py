"""The training tab's presets: kept without the concept, and never lost to a bad name or a damaged file."""

import pytest
from training_form_values import EMPTY

from lib_persres.errors import PersresError
from lib_persres.webui.tab import form
from lib_persres.webui.tab.presets import Presets


def test_presets_are_kept_without_the_concept_and_deleted(tmp_path):
    presets = Presets(tmp_path / "deep" / "presets.json")
    assert presets.all() == {}
    assert presets.save(" fast ", {**EMPTY, "steps": "5"}) == "fast"
    kept = Presets(tmp_path / "deep" / "presets.json").get("fast")
    assert kept["steps"] == "5" and not {"concept", "macro_class", "overwrite"} & set(kept)
    presets.save("slow", EMPTY)
    presets.delete("fast")
    assert list(presets.all()) == ["slow"] and len(list((tmp_path / "deep").iterdir())) == 1


def test_bad_presets_are_told(tmp_path):
    path = tmp_path / "presets.json"
    presets = Presets(path)
    for name in ("", "paper", form.AUTOMATIC, "a/b", "x" * 61):
        with pytest.raises(PersresError, match="cannot be called"):
            presets.save(name, EMPTY)
    with pytest.raises(PersresError, match='no preset "none"'):
        presets.delete("none")
    for text in ("{", "[]"):
        path.write_text(text)
        with pytest.raises(PersresError, match="mend or delete"):
            presets.save("good", EMPTY)
        assert path.read_text() == text
