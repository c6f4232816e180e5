"""The Toybox in each family's format, in a WebUI of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import yaml
from host import ROOT, Host

from lib_persres.toybox import CHECKPOINT
from lib_persres.toybox.install import install

FAMILIES = ("SD1", "SD2", "SDXL")
NAMES = {"SD1": CHECKPOINT.stem, "SD2": "toybox-sd2", "SDXL": "toybox-sdxl"}
SMALL = {"steps": 6, "width": 128, "height": 128, "sampler_name": "Euler", "seed": 5, "cfg_scale": 5}
NEGATIVE = "blurry"
"""For an empty one the WebUI gives SDXL zeros, which say something else."""


def make_data(data: Path) -> None:
    """A --data-dir with the three checkpoints, this extension and the probe."""
    (data / "extensions").mkdir(parents=True)
    for name, path in {"persres": ROOT, "probe": Path(__file__).parent / "probe"}.items():
        (data / "extensions" / name).symlink_to(path, target_is_directory=True)
    # previews while SDXL draws want a small model from the network
    (data / "config.json").write_text(json.dumps({"live_previews_enable": False}))
    folder = data / "models" / "Stable-diffusion"
    install(folder)
    for family in FAMILIES[1:]:
        file = folder / f"{NAMES[family]}.safetensors"
        command = [sys.executable, "-m", "lib_persres", "toybox", "convert", "--family", family, "--out", str(file)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        sidecar = file.with_suffix(".yaml")
        description = yaml.safe_load(sidecar.read_text())
        for options in _options(description):
            if options.get("version"):
                options["version"] = str(folder / options["version"])  # the WebUI looks from its own folder
        sidecar.write_text(yaml.safe_dump(description, sort_keys=False))


def _options(description):
    """All `params` in a description, whatever they are of."""
    if isinstance(description, dict):
        if isinstance(description.get("params"), dict):
            yield description["params"]
        for value in description.values():
            yield from _options(value)
    elif isinstance(description, list):
        for value in description:
            yield from _options(value)


@contextlib.contextmanager
def loaded(host: Host, family: str):
    with host.options(sd_model_checkpoint=NAMES[family]):
        yield


def draw(host: Host, family: str, prompt: str, args=None, **parameters):
    with loaded(host, family):
        given = {**SMALL, "negative_prompt": NEGATIVE, **parameters}
        return host.generate(prompt, args, **given)
