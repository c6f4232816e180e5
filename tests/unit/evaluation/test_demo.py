"""The demo: a suite with its report, from one command."""

import json

import pytest

from lib_persres.commands import demo
from lib_persres.evaluation.report import plots
from lib_persres.evaluation.suite import FOLDER

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def short(tmp_path, monkeypatch):
    """The demo's suite, over in seconds."""
    raw = json.loads((FOLDER / "toybox-demo.json").read_text())
    raw["sampling"] |= {"steps": 2, "prompts": 1}
    raw["methods"][1]["training"]["changes"] = {"steps": 3}
    (tmp_path / "short.json").write_text(json.dumps(raw))
    monkeypatch.setattr(demo, "SUITE", str(tmp_path / "short.json"))
    for name in ("categories", "trade_off"):  # drawing is slow
        monkeypatch.setattr(plots, name, lambda *_: None)


def test_the_demo_learns_draws_scores_and_shows_on_one_page(short, tmp_path, capsys):
    out = tmp_path / "out"
    assert demo.main(["--out", str(out), "--concept", "mira", "--per-prompt", "1"]) == 0
    said = capsys.readouterr()
    assert "training" in said.err and f"Open {out}/report/report.html" in said.out
    lines = said.out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["base", "residual", "residual+lag"]
    page = (out / "report" / "report.html").read_text()
    for shown in ("losses.png", "sheet-1.jpg", "its photos above", "where residual+lag acts", "identity"):
        assert shown in page
    assert (out / "pieces" / "mira" / "residual" / "residual.safetensors").is_file()


def test_the_demo_again_does_nothing_again_and_learns_rex_alone(short, tmp_path, capsys):
    options = ["--out", str(tmp_path / "out"), "--per-prompt", "1"]
    assert demo.main(options) == demo.main(options) == 0
    assert "2 pieces, 2 of them done before" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out" / "pieces").iterdir()] == ["rex"]
