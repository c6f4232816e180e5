"""The same residual on the Toybox draws the same picture in every WebUI of the line, as far as they draw the same base.

PERSRES_PICTURES names a folder in which each WebUI's pictures are kept; they are compared with those of the others
that ran before. Without it, or in the first of them, only what does not need another is proved.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import EXTENSIONS
from host import ROOT, Host, configure, make_extensions
from pictures import LAG

from lib_persres.residual import Factors, Metadata, Residual
from lib_persres.standalone.checkpoint import load
from lib_persres.toybox import CHECKPOINT
from lib_persres.toybox.install import install

SEEDS = range(1, 7)
PAPERS = [{"lag": True, "mask": "median"}]
PROMPT = "V* ball on grass <persres:rex>"
WAYS = {
    "base": ("olis ball on grass", None),
    "plain": (PROMPT, None),
    "LAG": (PROMPT, LAG),
    "LAG, median": (PROMPT, PAPERS),
}
SAME = 0.2
"""Grey levels on average over a picture, in which a residual changes 20 and more. Two WebUIs' own pictures of the same
prompt were up to 0.06 apart."""


def acting(seed: int) -> Residual:
    generator = torch.Generator().manual_seed(seed)
    metadata = Metadata(concept="rex", identifier="olis", macro_class="ball")
    made = Residual.initialise(load(CHECKPOINT, "cpu").unet, "4", generator, metadata)
    for path, factors in made.factors.items():
        made.factors[path] = Factors(factors.down, 0.1 * torch.randn(factors.up.shape, generator=generator))
    return made


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, reference):
    """(ways, seeds, h, w, 3) by this WebUI; it comes after `reference`, so that one WebUI starts at a time."""
    data = tmp_path_factory.mktemp("same") / "data"
    make_extensions(data, {"persres": ROOT, **EXTENSIONS})
    configure(data)
    install(data / "models" / "Stable-diffusion")
    acting(1).save(data / "models" / "persres" / "rex.safetensors")
    host = Host(Path(os.environ["PERSRES_WEBUI"]), data)
    size = {"steps": 20, "width": 128, "height": 128, "sampler_name": "Euler", "cfg_scale": 6}
    try:
        host.wait()
        return np.stack(
            [
                [host.image(f"a photo of a {prompt}", args, seed=seed, **size) for seed in SEEDS]
                for prompt, args in WAYS.values()
            ]
        )
    finally:
        host.stop()


def apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Grey levels, on average over each picture."""
    return np.abs(one.astype(float) - other.astype(float)).mean((-3, -2, -1))


def test_the_residual_changes_every_picture(drawn):
    changed = apart(drawn[1:], drawn[:1])
    print("changed by", np.round(changed.mean(1), 1))
    assert (changed > 1).all() and (changed.mean(1) > 10).all(), changed


def test_the_pictures_are_those_of_the_other_webuis(drawn):
    folder = os.environ.get("PERSRES_PICTURES")
    if not folder:
        pytest.skip("PERSRES_PICTURES names no folder with the pictures of other WebUIs.")
    name = Path(os.environ["PERSRES_WEBUI"]).name
    others = sorted(path for path in Path(folder).glob("*.npy") if path.stem != name)
    np.save(Path(folder) / f"{name}.npy", drawn)
    if not others:
        pytest.skip("PERSRES_PICTURES has no pictures of another WebUI yet.")
    for other in others:
        differ = apart(drawn, np.load(other)).mean(1)
        told = ", ".join(f"{way} {value:.4f}" for way, value in zip(WAYS, differ, strict=True))
        print(f"hosts.picture, {name} and {other.stem}: {told}")
        assert (differ < SAME).all(), told
