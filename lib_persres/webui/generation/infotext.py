"""What the infotext says of a generation, and how it is read back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from ...errors import PersresError
from ...prompt import NETWORK, Written, edit_tags
from ...residual_folder import ResidualFolder
from ..chosen import chosen
from ..host import HOST
from ..options import HASHES as HASHES_OPTION
from ..settings import Settings

LABELS = {
    "lag": "Persres LAG",
    "mask": "Persres mask",
    "unconditional": "Persres unconditional",
    "strength": "Persres strength",
    "show_masks": "Persres show masks",
}
ENABLED = "Persres enabled"
"""No infotext has it: it is what "Send to img2img" knows the accordion's own checkbox by."""
HASHES = "Persres hashes"
REFUSED = "Persres not applied"
PARTLY = "Persres partly applied"
TRAINED = "Persres trained on"
DECIDED = "Persres LAG auto"
PROBLEMS = "Persres problems"


class Field(str):
    """A label that can be called. A paste and the API call it with an infotext's parameters for the input's value;
    "Send to img2img" copies the inputs that have a label."""

    read: Callable[[dict], object]

    def __new__(cls, label: str, read: Callable[[dict], object]):
        field = super().__new__(cls, label)
        field.read = read
        return field

    def __call__(self, params: dict) -> object:
        return self.read(params)


class PerImage(dict):
    """Of a request's concepts, by name. The WebUI puts it as it is into the API's `info`, and calls it for the
    infotext of each image, whose own concepts it then names."""

    def __init__(self, text: Callable[[str, str], str]):
        super().__init__()
        self.text = text

    def __call__(self, **at) -> str | None:
        # each image has its own tags, and only its prompt says which; a list is cut at commas and colons when read
        names = [name for name in _names(**at) if name in self and not set(name) & set(",:")]
        return ", ".join(self.text(name, self[name]) for name in names) or None


class Decided(PerImage):
    """What LAG auto made of concepts. Several images may have one by the same name, and decide otherwise: the API's
    `info` has all that was decided of a name, an image's infotext its own."""

    def __init__(self) -> None:
        super().__init__(lambda name, decided: f"{name}: {decided}")
        self._own: dict[int, dict[str, dict[bool, str]]] = {}
        """Image -> name -> whether it is the hires pass -> what was decided."""

    def add(self, index: int, name: str, hires: bool, decided: str) -> None:
        """index: of the image in the request."""
        self._own.setdefault(index, {}).setdefault(name, {})[hires] = decided
        every = (by_pass for names in self._own.values() for own, by_pass in names.items() if own == name)
        self[name] = "; ".join(dict.fromkeys(text for by_pass in every for text in by_pass.values()))

    def __call__(self, **at) -> str | None:
        own = self._own.get(at["index"], {})
        told = []
        for name in _names(**at):
            if name in own and not set(name) & set(",:"):
                first, hires = own[name].get(False, ""), own[name].get(True, "")
                told.append(self.text(name, first if hires in ("", first) else f"{first or 'no'}; hires: {hires}"))
        return ", ".join(told) or None


class Sentences(tuple):
    """For the API's `info`; the WebUI calls it for an infotext, where sentences have no place."""

    def __call__(self, **at) -> None:
        return None


def note(p, sentence: str) -> None:
    """Add a sentence to what the API's `info` says of a request. It stays for all the images of an X/Y/Z plot."""
    params = p.extra_generation_params
    params[PROBLEMS] = Sentences([*params.get(PROBLEMS, ()), sentence])


def write_infotext(job) -> None:
    """Put what the job's batch uses into the infotext; nothing where no prompt has a tag."""
    params = job.p.extra_generation_params
    for key in (HASHES, REFUSED, PARTLY, TRAINED, DECIDED, *LABELS.values()):
        params.pop(key, None)
    if not job.hashes and not job.refused:
        return
    if chosen(HASHES_OPTION):
        params[HASHES] = job.hashes
    params |= {REFUSED: job.refused, PARTLY: job.partly, TRAINED: job.trained, DECIDED: job.decided}
    if job.settings.enabled or job.settings.lag != "off":
        params |= {label: getattr(job.settings, name) for name, label in LABELS.items()}


def _names(p, all_prompts, index, **_) -> list[str]:
    """The concepts that an image's prompts name, each once."""
    prompts = [all_prompts[index]]
    hires = getattr(p, "all_hr_prompts", None)
    if getattr(p, "enable_hr", False) and hires and index < len(hires):
        prompts.append(hires[index])
    tags = [params for prompt in prompts for params in HOST.parse_tags(prompt)[1].get(NETWORK, ())]
    return list(dict.fromkeys(params.items[0].strip() for params in tags))


def read_settings(params: dict[str, str]) -> Settings | None:
    """The settings that an infotext's parameters state; None where they state none that we know."""
    if LABELS["lag"] not in params:
        return None
    kinds: dict[str, type[Any]] = {field.name: type(field.default) for field in fields(Settings)}
    before = {"True": "on", "False": "off"}  # as infotexts said before there was auto
    given: dict[str, Any] = {}
    for name, label in LABELS.items():
        text = str(params.get(label, "")).strip()
        if text:
            try:
                given[name] = text.lower() == "true" if kinds[name] is bool else kinds[name](text)
                if name == "lag":
                    given[name] = before.get(text, text)
            except ValueError:
                return None
    try:
        return Settings(enabled=True, **given)
    except PersresError:
        return None


def renamed(residuals: ResidualFolder, params: dict[str, str]) -> None:
    """Write the present names of the files into a pasted prompt; hashes tell them where they were renamed."""
    hashes = dict(pair.split(":", 1) for pair in params.get(HASHES, "").split(",") if ":" in pair)
    hashes = {name.strip(): digits.strip() for name, digits in hashes.items()}

    def present(tag: Written) -> str | None:
        name, colon, rest = tag.arguments.partition(":")
        digits = hashes.get(name.strip()) if tag.network == NETWORK else None
        if not digits:
            return None
        try:
            if residuals.hash(residuals.find(name.strip())).startswith(digits):
                return None
        except PersresError:
            pass
        entry = residuals.by_hash(digits)
        return None if entry is None else f"<{NETWORK}:{entry.name}{colon}{rest}>"

    for key in ("Prompt", "Hires prompt"):
        if hashes and isinstance(params.get(key), str):
            params[key] = edit_tags(params[key], present)
