"""CustomConcept101 (Kumari et al., Custom Diffusion, CVPR 2023): the dataset of the paper's tables.

The folder is the published one: dataset.json, dataset_multiconcept.json, prompts/, and the unpacked
benchmark_dataset/; the regularization images named in the lists are optional.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from ...errors import PersresError
from .dataset import Concept, Dataset, Pair, image_files, read_text
from .prompt_file import read_prompts

SINGLE, PAIRS = "dataset.json", "dataset_multiconcept.json"
_FIELDS = ("instance_prompt", "class_prompt", "instance_data_dir", "prompt_filename")


def read(root: str | os.PathLike, pairs: bool = False) -> Dataset:
    """The 101 concepts; with `pairs` also the 101 pairs of the two-concept file.

    A concept is named after its folder of images ("pet_dog1"); the part before "_" is its group, one of 16.
    """
    root = Path(root)
    concepts = tuple(_concept(root, entry, where) for entry, where in _entries(root / SINGLE))
    names = [concept.name for concept in concepts]
    if twice := {name for name in names if names.count(name) > 1}:
        raise PersresError(f"{root / SINGLE} lists {sorted(twice)[0]} twice: each concept needs a folder of its own.")
    return Dataset("CustomConcept101", concepts, _pairs(root) if pairs else ())


def _pairs(root: Path) -> tuple[Pair, ...]:
    """Each entry of the two-concept file is [concept, concept, {"prompt_filename_compose": …}]."""
    out: dict[str, Pair] = {}
    for entry, where in _entries(root / PAIRS):
        if not isinstance(entry, list) or len(entry) != 3 or not all(isinstance(part, dict) for part in entry):
            raise PersresError(f"{where} is not two concepts and their prompts.")
        file = entry[2].get("prompt_filename_compose")
        if not isinstance(file, str):
            raise PersresError(f"{where} has no prompt_filename_compose.")
        # a pair's concepts are drawn by its own prompts: their own may be missing without harm
        first, second = (_concept(root, part, where, prompts=False) for part in entry[:2])
        name = f"{first.name}+{second.name}"
        name += f"-{len(out) + 1}" if name in out else ""
        out[name] = Pair(name, (first, second), read_prompts(root / file, fields=2))
    return tuple(out.values())


def _entries(path: Path) -> list[tuple[object, str]]:
    """Each entry of a list and what to call it."""
    try:
        entries = json.loads(read_text(path, "The list of concepts"))
    except json.JSONDecodeError as error:
        raise PersresError(f"{path} is not JSON: {error.msg} in line {error.lineno}.") from error
    if not isinstance(entries, list) or not entries:
        raise PersresError(f"{path} is not a list of concepts.")
    return [(entry, f"{path}, entry {number}") for number, entry in enumerate(entries, 1)]


def _concept(root: Path, entry, where: str, prompts: bool = True) -> Concept:
    if not isinstance(entry, dict):
        raise PersresError(f"{where} is not a concept: {{…}} is expected.")
    for field in _FIELDS:
        if not isinstance(entry.get(field), str) or not entry[field].strip():
            raise PersresError(f"{where} has no {field}.")
    folder, classes = root / entry["instance_data_dir"], entry.get("class_data_dir")
    return Concept(
        name=folder.name,
        macro_class=entry["class_prompt"].strip(),
        images=image_files(folder, folder.name),
        prompts=read_prompts(root / entry["prompt_filename"]) if prompts else (),
        class_images=root / classes if isinstance(classes, str) and classes else None,
        group=folder.name.partition("_")[0],
    )
