"""What the infotext says of a generation, and how it is read back."""

from __future__ import annotations

import re
from dataclasses import fields

from modules import extra_networks

from ..errors import PersresError
from ..prompt import NETWORK
from .files import Shelf
from .settings import Settings

LABELS = {
    "lag": "Persres LAG",
    "mask": "Persres mask",
    "unconditional": "Persres unconditional",
    "strength": "Persres strength",
    "show_masks": "Persres show masks",
}
HASHES = "Persres hashes"
REFUSED = "Persres not applied"
_TAG_NAME = re.compile(rf"(<{NETWORK}:\s*)([^:>]+?)(\s*[:>])")


def write_infotext(job) -> None:
    """Put what the job's batch uses into the infotext; nothing where no prompt has a tag."""
    params = job.p.extra_generation_params
    for key in (HASHES, REFUSED, *LABELS.values()):
        params.pop(key, None)
    if not job.hashes and not job.refused:
        return
    # each image has its own tags, and only its prompt says which: the WebUI asks for every image in turn
    params[HASHES] = lambda **at: _pairs(job.hashes, _names(**at), without=job.refused)
    params[REFUSED] = lambda **at: ", ".join(name for name in _names(**at) if name in job.refused) or None
    if job.settings.enabled:
        params |= {label: getattr(job.settings, name) for name, label in LABELS.items()}


def _names(p, all_prompts, index, **_) -> list[str]:
    """The concepts that an image's prompts name, each once."""
    prompts = [all_prompts[index]]
    hires = getattr(p, "all_hr_prompts", None)
    if getattr(p, "enable_hr", False) and hires and index < len(hires):
        prompts.append(hires[index])
    tags = [params for prompt in prompts for params in extra_networks.parse_prompt(prompt)[1].get(NETWORK, ())]
    return list(dict.fromkeys(params.items[0].strip() for params in tags))


def _pairs(hashes: dict[str, str], names: list[str], without) -> str | None:
    # the list is cut at commas and colons when it is read
    used = [name for name in names if name in hashes and name not in without and not set(name) & set(",:")]
    return ", ".join(f"{name}: {hashes[name]}" for name in used) or None


def read_settings(params: dict[str, str]) -> Settings | None:
    """The settings that an infotext's parameters state; None where they state none that we know."""
    if LABELS["lag"] not in params:
        return None
    kinds = {field.name: type(field.default) for field in fields(Settings)}
    given = {}
    for name, label in LABELS.items():
        text = str(params.get(label, "")).strip()
        if text:
            try:
                given[name] = text.lower() == "true" if kinds[name] is bool else kinds[name](text)
            except ValueError:
                return None
    try:
        return Settings(enabled=True, **given)
    except PersresError:
        return None


def renamed(shelf: Shelf, params: dict[str, str]) -> None:
    """Write the present names of the files into a pasted prompt; hashes tell them where they were renamed."""
    hashes = dict(pair.split(":", 1) for pair in params.get(HASHES, "").split(",") if ":" in pair)
    hashes = {name.strip(): digits.strip() for name, digits in hashes.items()}

    def present(match: re.Match) -> str:
        digits = hashes.get(match[2])
        if not digits:
            return match[0]
        try:
            if shelf.hash(shelf.find(match[2])).startswith(digits):
                return match[0]
        except PersresError:
            pass
        entry = shelf.by_hash(digits)
        return match[0] if entry is None else f"{match[1]}{entry.name}{match[3]}"

    for key in ("Prompt", "Hires prompt"):
        if hashes and isinstance(params.get(key), str):
            params[key] = _TAG_NAME.sub(present, params[key])
