"""The examples of docs/api.md run against a WebUI as they stand there, but for the address, sizes and steps."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from pages import DOCS, blocks
from PIL import Image

PAGE = (DOCS / "api.md").read_text(encoding="utf-8")


@pytest.fixture
def example(host, photos, folder, tmp_path):
    """example(language) -> a program of the page's blocks in it, in a folder with photos; it leaves no training."""
    shutil.copytree(photos[0].parent, tmp_path / "my-dog")
    shutil.copytree(photos[0].parent, host.data / "photos" / "my-cat")
    there = "http://127.0.0.1:7860", "/photos/"
    here = f"http://127.0.0.1:{host.port}", f"{host.data}/photos/"

    def program(language):
        text = "\n".join(blocks(PAGE, language))
        for was, now in zip(there, here, strict=True):
            assert was in text or language == "python"
            text = text.replace(was, now)
        for name, value in (("width", 64), ("height", 64), ("steps", 3), ("preview_every", 1)):
            text = re.sub(rf'"{name}": \d+', f'"{name}": {value}', text)
        return text

    yield program
    host.end_trainings()
    shutil.rmtree(host.data / "photos")


def run(command, cwd) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_shells_examples_run(host, example, tmp_path):
    shell = example("sh").replace("curl -s ", "curl -sSf ")
    told = run(["bash", "-euo", "pipefail", "-c", shell], tmp_path)
    assert "'Persres hashes': {'rex':" in told
    assert Image.open(tmp_path / "rex.png").size == (64, 64)
    assert '"name":"rex"' in told.replace('": "', '":"') and '{"residuals":2}' in told
    (training,) = host.get("/persres/v1/train")
    assert training["concept"] == "tom" and training["request"]["macro_class"] == "cat"
    assert json.dumps(training["id"]) in told


def test_pythons_examples_run(host, example, folder, tmp_path):
    told = run([sys.executable, "-c", example("python")], tmp_path)
    assert "used: {'rex':" in told and "left out: {}" in told
    assert Image.open(tmp_path / "lag.png").size == Image.open(tmp_path / "preview.png").size == (64, 64)
    assert re.search(r"^finished .*my-dog\.safetensors", told, re.MULTILINE), told
    assert (folder / "my-dog.safetensors").is_file() and host.get("/persres/v1/train") == []
