"""A residual as a LoRA file for other programs, which then knows nothing of LAG."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch.nn.functional import pad

from ..errors import PersresError, first_line
from ..residual import ENCODERS, Factors, Residual, key_of
from ..targets import LAYERED
from ..tensor_file import FLOATS
from ..writing import write_new
from .names import SDXL, UNET, diffusers_path, read_name, unet_path
from .read import FAMILIES

FORMS = ("lora", "diffusers")
"""kohya's names, which the WebUI and most programs read; and diffusers' and PEFT's."""
BASES = {
    # kohya's name of the base, and the architecture of modelspec
    "SD1": ("sd_v1", "stable-diffusion-v1/lora"),
    "SD2": ("sd_v2", "stable-diffusion-v2/lora"),
    SDXL: ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
}
_WIDE = ("in_layers.2", "out_layers.3", "op", "conv", "out.2", "blocks.0.0")
"""The ends of the paths of convolutions of 3×3."""


def save_lora(
    residual: Residual, path: str | os.PathLike[str], form: str = FORMS[0], dtype: torch.dtype = torch.float16
) -> list[str]:
    """Write a new file whose alpha is its rank, so that it acts at strength 1 as the residual does.

    Sentences on what it could not take along. PersresError where there is one of that name, or it cannot be written.
    """
    path = Path(path)
    if form not in FORMS:
        raise PersresError(f"A LoRA is written as {' or '.join(FORMS)}, not {form[:40]!r}.")
    if path.suffix != ".safetensors":
        raise PersresError(f"{path} is not written: a LoRA's name ends in .safetensors.")
    if dtype not in FLOATS.values():
        raise PersresError(f"{path} is not written: a LoRA is kept in floating point, not in {dtype}.")
    family = _family(residual)
    try:
        tensors, alphas = _modules(residual, form, family)
    except PersresError as error:
        raise PersresError(f"{path} is not written: {error}") from error
    notes: list[str] = []
    if residual.embeddings and form == "diffusers":
        notes.append("The learned word is left out: diffusers reads words from files of their own.")
    elif residual.embeddings:
        bundle, told = _bundle(residual)
        tensors |= bundle
        notes += told
    if not tensors:
        raise PersresError(f"{path} is not written: the residual has nothing that a LoRA in this form can hold.")
    for name, tensor in tensors.items():
        tensors[name] = tensor.detach().to("cpu", dtype, copy=True).contiguous()
        if not tensors[name].isfinite().all():
            raise PersresError(f"{path} is not written: values of {name} are too large for {dtype}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_new(path, safetensors.torch.save(tensors | alphas, _strings(residual, path.stem, family)))
    except FileExistsError as error:
        raise PersresError(f"{path} is there already: choose another name, or move it away.") from error
    except (OSError, ValueError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise PersresError(f"{path} cannot be written: {reason}.") from error
    return notes


def _family(residual: Residual) -> str:
    """As its header says, else by the width of the text that its keys and values see."""
    said = residual.metadata.base_family.strip().upper()
    if said in BASES:
        return said
    ends = tuple(f"attn2.{name}" for name in LAYERED["kv"][1])
    widths = (factors.down.shape[1] for target, factors in residual.factors.items() if target.endswith(ends))
    return next((FAMILIES[width] for width in widths if width in FAMILIES), "SD1")


def _modules(residual: Residual, form: str, family: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The factors by their names in the file, and the alphas, which say the rank. PersresError with a reason alone."""
    tensors: dict[str, torch.Tensor] = {}
    alphas: dict[str, torch.Tensor] = {}
    # where a file says no alpha, older releases of diffusers take one rank for the alpha of all modules
    rank = max((factors.rank for factors in residual.factors.values()), default=0) if form == "diffusers" else 0
    for target, factors in residual.factors.items():
        if unet_path(target.replace(".", "_"), family) != target:
            raise PersresError(f"the residual's {target} is no module of SD1, SD2 or SDXL.")
        filled = _filled(factors, rank)
        try:
            down, up = _shaped(target, filled.down, filled.up, family)
        except RuntimeError as error:
            raise PersresError(f"{target} is a convolution of 3×3, whose width its factors do not have.") from error
        if form == "diffusers":
            name = f"unet.{_in_diffusers(target, family)}"
            tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        else:
            name = _kohya(target, family)
            tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
            alphas[f"{name}.alpha"] = torch.tensor(float(factors.rank))  # fp32: bf16 has no number between 256 and 258
    return tensors, alphas


def _in_diffusers(target: str, family: str) -> str:
    path = diffusers_path(target, family)
    found = read_name(f"unet.{path}.lora_A.weight")
    if not found or unet_path(found.module, family) != target:
        raise PersresError(f"diffusers has no name for {target}: it counts blocks as SD's depth has them.")
    return path


def _filled(factors: Factors, rank: int) -> Factors:
    """Brought to this rank by zeros, where it is below."""
    more = max(0, rank - factors.rank)
    return Factors(pad(factors.down, (0, 0, 0, more)), pad(factors.up, (0, more))) if more else factors


def _kohya(target: str, family: str) -> str:
    """kohya's name; of a UNet of other depths than SD's, ldm's own path, which the WebUI reads as well."""
    name = "lora_unet_" + diffusers_path(target, family).replace(".", "_")
    found = read_name(f"{name}.alpha")
    back = unet_path(found.module, family) if found and found.where == UNET else None
    return name if family != SDXL and back == target else "lora_unet_" + target.replace(".", "_")


def _shaped(target: str, down: torch.Tensor, up: torch.Tensor, family: str) -> tuple[torch.Tensor, torch.Tensor]:
    """As kernels where the target is a convolution."""
    if target.endswith(_WIDE):
        return down.unflatten(1, (-1, 3, 3)), up[..., None, None]
    if target.endswith("skip_connection") or (family == "SD1" and re.search(r"proj_(in|out)$", target)):
        return down[..., None, None], up[..., None, None]
    return down, up


def _bundle(residual: Residual) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The learned word, as the WebUI reads it out of a LoRA; sentences on what has changed of it."""
    word = residual.metadata.identifier
    name = word.replace(".", "_") or "word"  # a full stop ends the word in a tensor's name
    found = {}
    for encoder in ENCODERS:
        vectors = residual.embeddings.get(key_of(encoder, word))
        if vectors is not None:
            end = encoder or "string_to_param.*"
            found[f"bundle_emb.{name}.{end}"] = vectors.reshape(-1, vectors.shape[-1])
    told = f'The learned word is "{name}" in this file, which can hold no "{word}": write that in prompts.'
    return found, [told] if found and name != word else []


def _strings(residual: Residual, name: str, family: str) -> dict[str, str]:
    """What tools show of a LoRA: kohya's keys and modelspec's."""
    facts = residual.metadata
    ranks = {factors.rank for factors in residual.factors.values()}
    rank = str(ranks.pop()) if len(ranks) == 1 else "Dynamic"
    trigger = " ".join(filter(None, (facts.identifier, facts.macro_class)))
    base, architecture = BASES[family]
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
        "ss_base_model_version": base,
        "ss_output_name": name,
        "ss_tag_frequency": json.dumps({f"1_{trigger}": {trigger: max(1, len(facts.image_hashes))}} if trigger else {}),
        "ss_training_comment": f"a residual of {facts.concept or 'a concept'}, written as a LoRA by persres",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": architecture,
        "modelspec.title": facts.concept or name,
        "modelspec.trigger_phrase": trigger,
    }
