"""A part of the suite toybox-quick, from the command line, with the real Toybox, its CLIP and its judge."""

import json

import pytest
import torch

pytest.importorskip("ldm")

from lib_persres.commands import main
from lib_persres.evaluation.suite import FOLDER


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_part_of_the_quick_suite_runs_to_its_report(tmp_path, monkeypatch, capsys):
    for name in ("categories", "trade_off", "losses"):  # drawing is slow
        monkeypatch.setattr(f"lib_persres.evaluation.report.plots.{name}", lambda *_: None)
    raw = json.loads((FOLDER / "toybox-quick.json").read_text())
    raw["sampling"] |= {"steps": 2, "prompts": 1}
    raw["nouns"]["from"] = ["ball", "heart", "star"]
    raw["pairs"]["prompts"] = 1
    for method in raw["methods"]:
        if isinstance(method["training"], dict):
            method["training"]["changes"]["steps"] = 1
    suite = tmp_path / "part.json"
    suite.write_text(json.dumps(raw))
    options = ["--suite", str(suite), "--out", str(tmp_path / "run"), "--device", "cpu", "--workers", "1"]
    assert main(["evaluate", "run", *options]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run" / "report")
    rows = [json.loads(line) for file in (tmp_path / "run" / "scores").glob("*.jsonl") for line in file.open()]
    asked = [row for row in rows if row["category"] not in ("without V*", "two concepts")]
    assert len(asked) == 2 * 3 + 1
    for row in asked:
        assert 0 <= row["clip_text"] <= 2.5 and -1 <= row["clip_image"] <= 1
        assert row["identity"] in (0, 1) and -1 <= row["background_copied"] <= 1
    report = (tmp_path / "run" / "report" / "report.md").read_text()
    for heading in ("Table 1", "Table 4", "The nearest nouns", "Two concepts in one picture", "Contact sheets"):
        assert f"## {heading}" in report
    noun = json.loads((tmp_path / "run" / "classes.json").read_text())["concepts"]["otto"]
    assert noun["given"] == "heart" != noun["nearest"] and f"| otto | heart | {noun['nearest']} |" in report
