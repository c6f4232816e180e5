"""The Toybox model, put into a WebUI by the command line, loads there without a network and draws what it is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkout import EXTENSIONS
from host import ROOT, Host, configure, make_extensions

from lib_persres.toybox.judge import Judge

WEBUI = Path(os.environ["PERSRES_WEBUI"])
PROMPT = "a photo of a red ball on grass"


def toybox(action: str, data: Path) -> str:
    command = [sys.executable, "-m", "lib_persres", "toybox", action, "--webui", str(WEBUI), "--data-dir", str(data)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def data(tmp_path, reference):
    """A data folder with this extension, and what lets hosts know small models. It comes after `reference`, so that one
    WebUI starts at a time."""
    data = tmp_path / "data"
    make_extensions(data, {"persres": ROOT, "known": EXTENSIONS["known"]})
    configure(data)
    return data


def test_the_webui_draws_with_the_installed_toybox_and_loses_it_again(data):
    assert "toybox.safetensors" in toybox("install", data)
    assert "already" in toybox("install", data)
    host = Host(WEBUI, data)
    try:
        host.wait()
        assert [model["model_name"] for model in host.get("/sdapi/v1/sd-models")] == ["toybox"]
        images = host.generate(PROMPT, batch_size=4, steps=15, width=128, height=128).images[-4:]
    finally:
        host.stop()
    seen = Judge.load().see(torch.stack([torch.tensor(image).permute(2, 0, 1) / 255 for image in images]))
    right = [([(thing.cls, thing.colour) for thing in one.things], one.background) for one in seen]
    assert right.count(([("ball", "red")], "grass")) >= 3, right
    log = host.log.read_text()
    assert "Failed to create model quickly" not in log and "huggingface.co" not in log
    toybox("uninstall", data)
    assert not [path for path in (data / "models").rglob("*") if "toybox" in path.name]
