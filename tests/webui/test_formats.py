"""The Toybox's files in SD2's and SDXL's formats draw the SD1 file's pictures by the families' own model classes.

The classes are those of the WebUI's repositories, made from the files' yamls in its Python; no WebUI is started.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from host import ROOT
from rounding import NETWORK, PRODUCT, assert_near

from lib_persres.toybox import CHECKPOINT
from lib_persres.toybox.install import install

WEBUI = Path(os.environ["PERSRES_WEBUI"])
PYTHON = os.environ.get("PERSRES_WEBUI_PYTHON") or WEBUI / "venv" / "bin" / "python"
if not (WEBUI / "repositories" / "generative-models").is_dir():
    pytestmark = pytest.mark.skip(reason="This host has no repositories with the families' own classes.")
WIDTH = json.loads((CHECKPOINT.parent / "text_encoder" / "config.json").read_text())["hidden_size"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """What formats_probe.py says of the three files, by family."""
    folder = tmp_path_factory.mktemp("formats")
    install(folder / "sd1")  # with the vocabulary, which a checkout lacks
    names = {"SD1": f"sd1/{CHECKPOINT.name}", "SD2": "sd2.safetensors", "SDXL": "sdxl.safetensors"}
    files = {family: folder / name for family, name in names.items()}
    for family in ("SD2", "SDXL"):
        command = [sys.executable, "-m", "lib_persres", "toybox", "convert", "--family", family, "--out", files[family]]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    out, probe = folder / "drawn.pt", Path(__file__).with_name("formats_probe.py")
    run = [PYTHON, probe, WEBUI / "repositories", out, *files.values()]
    done = subprocess.run([str(part) for part in run], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    made = torch.load(out)
    return {family: made[path.stem] for family, path in files.items()}


@pytest.mark.parametrize("family", ["SD1", "SD2", "SDXL"])
def test_the_familys_own_model_takes_every_tensor_and_lacks_nothing_but_its_schedule(drawn, family):
    schedule = ("alphas", "betas", "log_one_minus", "posterior_", "sqrt_", "lvlb_weights", "denoiser.sigmas")
    assert drawn[family]["unexpected"] == []
    assert [name for name in drawn[family]["missing"] if not name.startswith(schedule)] == []
    assert_near(drawn[family]["alphas"], drawn["SD1"]["alphas"], PRODUCT)


@pytest.mark.parametrize("family", ["SD2", "SDXL"])
def test_the_context_and_the_prediction_are_the_same(drawn, family):
    one, other = drawn["SD1"], drawn[family]
    assert_near(other["context"][..., :WIDTH], one["context"], PRODUCT)
    assert_near(other["eps"], one["eps"], NETWORK)


@pytest.mark.parametrize("family", ["SD2", "SDXL"])
def test_the_pictures_are_the_same(drawn, family):
    pictures = drawn["SD1"]["images"]
    assert pictures.std() > 20
    apart = (drawn[family]["images"] - pictures).abs()
    print(f"{family}: mean {apart.mean():.2g}, largest {apart.max():.2g} grey levels")
    assert apart.mean() < 0.1 and apart.max() < 1


def test_sdxls_second_encoder_and_vector_say_something_and_are_ignored(drawn):
    sdxl = drawn["SDXL"]
    assert sdxl["context"][..., WIDTH:].std() > 0.1
    vector, other = sdxl["vectors"]
    assert (vector - other).abs().max() > 0.1
    assert torch.equal(sdxl["eps_of_another_vector"], sdxl["eps"])
