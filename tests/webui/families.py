"""The Toybox in each family's format, in a WebUI of its own."""

from __future__ import annotations

import contextlib
import copy
import subprocess
import sys
from pathlib import Path

import torch
import yaml
from checkout import A1111, EXTENSIONS
from host import ROOT, Host, configure, make_extensions
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib_persres.lora.names import UNET, read_name, unet_path
from lib_persres.toybox import CHECKPOINT
from lib_persres.toybox.formats import SECOND_WIDTH
from lib_persres.toybox.install import install

FAMILIES = ("SD1", "SD2", "SDXL")
NAMES = {"SD1": CHECKPOINT.stem, "SD2": "toybox-sd2", "SDXL": "toybox-sdxl"}
OF_V = {"SD2 v": "toybox-sd2-v", "SDXL v": "toybox-sdxl-v"}
"""The same weights as models of v; the probe turns what their UNets say."""
REFINER, INPAINTING = "toybox-refiner", "toybox-sdxl-inpainting"
"""In the formats of SDXL's refiner, which hears nothing of the text, and of its inpainting model, which looks at the
mask and the picture below it with weights that are zero."""
SMALL = {"steps": 6, "width": 128, "height": 128, "sampler_name": "Euler", "seed": 5, "cfg_scale": 5}
NEGATIVE = "blurry"
"""For an empty one the WebUI gives SDXL zeros, which say something else."""


KEPT = {"sd_checkpoints_limit": 8}
"""reForge takes ten seconds to let go of a checkpoint, which these tests change hundreds of times."""


def make_data(data: Path) -> None:
    """A --data-dir with the three checkpoints, this extension and the probe."""
    make_extensions(data, {"persres": ROOT, **EXTENSIONS})
    configure(data, **({} if A1111 else KEPT))
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
        if family == "SDXL":
            make_refiner(file, description)
            make_inpainting(file, description)
        # by this name the file itself says it, to hosts that heed no yaml
        _written(file, OF_V[family + " v"], {**load_file(file), "v_pred": torch.zeros(0)}, _of_v(description))


def _written(file: Path, name: str, state: dict, description: dict) -> None:
    save_file(state, file.with_name(f"{name}.safetensors"))
    file.with_name(f"{name}.yaml").write_text(yaml.safe_dump(description, sort_keys=False))


def make_refiner(file: Path, description: dict) -> None:
    """OpenCLIP's text encoder alone, before whose columns in the keys and values the zeros of `formats` stay."""
    state, description = load_file(file), copy.deepcopy(description)
    params = description["model"]["params"]
    models = params["conditioner_config"]["params"]["emb_models"]
    score = {**models[4], "input_key": "aesthetic_score"}
    params["conditioner_config"]["params"]["emb_models"] = [*models[1:4], score]
    network = params["network_config"]["params"]
    network["adm_in_channels"] -= 256
    network["context_dim"] = [SECOND_WIDTH] * len(network["channel_mult"])
    label = "model.diffusion_model.label_emb.0.0.weight"
    state[label] = state[label][:, :-256].contiguous()
    made = {}
    for name, tensor in state.items():
        if name.startswith("conditioner.embedders.0."):
            continue
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            tensor = tensor[:, -SECOND_WIDTH:].contiguous()
        made[name.replace("conditioner.embedders.1.", "conditioner.embedders.0.")] = tensor
    _written(file, REFINER, made, description)


def make_inpainting(file: Path, description: dict) -> None:
    state, description = load_file(file), copy.deepcopy(description)
    description["model"]["params"]["network_config"]["params"]["in_channels"] = 9
    first = "model.diffusion_model.input_blocks.0.0.weight"
    state[first] = torch.nn.functional.pad(state[first], (0, 0, 0, 0, 0, 5))
    _written(file, INPAINTING, state, description)


def _of_v(description: dict) -> dict:
    """As v2-inference-v.yaml says it, and as users of SDXL's models of v do."""
    description = copy.deepcopy(description)
    params = description["model"]["params"]
    if "denoiser_config" not in params:
        params["parameterization"] = "v"
    else:
        denoiser = params["denoiser_config"]["params"]
        for kind in ("scaling", "weighting"):
            target = denoiser[f"{kind}_config"]
            target["target"] = target["target"].replace("Eps", "V")
    return description


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
    with host.options(sd_model_checkpoint={**NAMES, **OF_V}.get(family, family)):
        yield


def draw(host: Host, family: str, prompt: str, args=None, **parameters):
    with loaded(host, family):
        given = {**SMALL, "negative_prompt": NEGATIVE, **parameters}
        return host.generate(prompt, args, **given)


def name_for_the_host(lora: Path, family: str) -> None:
    """A LoRA's names count two blocks in each level, which is true of the families' own models. AUTOMATIC1111 counts
    them so in the Toybox, too, which has one; the others count what is there, and know the modules' own names."""
    if A1111:
        return
    with safe_open(lora, "pt") as file:
        metadata = file.metadata()
    made = {}
    for name, tensor in load_file(lora).items():
        module, _, end = name.partition(".")
        read = read_name(name)
        if read is not None and read.where == UNET:
            module = "lora_unet_" + unet_path(read.module, family).replace(".", "_")
        made[f"{module}.{end}"] = tensor
    save_file(made, lora, metadata)
