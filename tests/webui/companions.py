"""What else a WebUI's folder may hold: a second checkpoint, a LoRA, an embedding of several vectors, styles."""

from __future__ import annotations

import json
from pathlib import Path

import standalone_models as models
import torch
from safetensors.torch import save_file

from lib_persres.residual import Residual
from lib_persres.standalone.checkpoint import save_sd1
from lib_persres.standalone.modules import AutoencoderKL, build_unet

OTHER = "winter.safetensors"
"""Listed after tiny.safetensors, so that the WebUI starts with that one."""
EMBEDDING, VECTORS = "vecs", 3
STYLES = """\
name,prompt,negative_prompt
with the tag,<persres:rex:0.85>,
with V*,"{prompt}, a photo of a V* dog",
with both,"a photo of a V* dog <persres:rex:0.8>, {prompt}",bad
mine,"{prompt} <persres:rex:0.45>",
"""


def save_checkpoint(path: Path, unet) -> None:
    torch.manual_seed(2)
    # the WebUI takes 8 image pixels for a latent pixel
    vae = models.randomize(AutoencoderKL({**models.DDCONFIG, "ch_mult": [1, 1, 1, 1], "resolution": 64}, 4))
    save_sd1(path, unet, vae, models.tiny_text(), dtype=torch.float32)
    # the WebUI looks for the text encoder from its own folder
    sidecar = path.with_suffix(".yaml")
    place = json.dumps(str(path.parent / "text_encoder"))
    sidecar.write_text(sidecar.read_text().replace("version: text_encoder", f"version: {place}"))


def add_companions(folder: Path) -> None:
    torch.manual_seed(7)
    save_checkpoint(folder / "models" / "Stable-diffusion" / OTHER, models.randomize(build_unet(models.UNET)))
    save_as_lora(folder / "models" / "persres" / "mia.safetensors", folder / "models" / "Lora" / "mia.safetensors")
    vectors = torch.randn(VECTORS, models.TEXT["hidden_size"], generator=torch.Generator().manual_seed(4))
    (folder / "embeddings").mkdir()
    save_file({"emb_params": vectors}, folder / "embeddings" / f"{EMBEDDING}.safetensors")
    (folder / "styles.csv").write_text(STYLES)


def save_as_lora(residual: Path, path: Path) -> None:
    """A LoRA with the same ΔW as the residual's, by the names of the model's own modules that every host reads."""
    tensors = {}
    for target, factors in Residual.load(residual).factors.items():
        name = "lora_unet_" + target.replace(".", "_")
        tensors[f"{name}.lora_down.weight"] = factors.down.float()[..., None, None].contiguous()
        tensors[f"{name}.lora_up.weight"] = factors.up.float()[..., None, None].contiguous()
        tensors[f"{name}.alpha"] = torch.tensor(float(factors.down.shape[0]))
    path.parent.mkdir(parents=True)
    save_file(tensors, path)
