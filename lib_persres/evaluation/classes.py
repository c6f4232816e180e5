"""The macro class chosen otherwise (Table 4): the noun whose text is nearest to a concept's photos in CLIP's space.

Chosen once, before any piece, and kept in the run's folder, so that a run that goes on keeps its nouns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from ..errors import PersresError
from ..names import check_class
from .datasets.dataset import Concept, read_text
from .run_folder import RunFolder, digest, read_json, write_json
from .scores.clip import ClipEmbedder
from .suite import Nouns

AT_A_TIME = 4096
"""Nouns whose embeddings are held at a time: WordNet has 117,000."""


def nearest_classes(
    run: RunFolder,
    nouns: Nouns,
    concepts: Sequence[Concept],
    clip: ClipEmbedder | None,
    file: Path | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> dict[str, str]:
    """Concept -> noun, for these concepts and those of the run that have one. file: of nouns, before the suite's."""
    known = read_json(run.classes_file, {})
    lacking = [concept for concept in concepts if concept.name not in known.get("concepts", {})]
    if lacking:
        words = _words(nouns, file)
        if known and known["nouns"]["hash"] != digest(words):
            raise PersresError(
                f"{run.classes_file} was made with other nouns: give those, or another folder with --out."
            )
        if clip is None:
            raise PersresError("The suite chooses macro classes by CLIP: say with --clip where ViT-B/32 is.")
        told(f"choosing the nearest of {len(words)} nouns for {len(lacking)} concepts")
        chosen = known.get("concepts", {}) | nearest(words, lacking, clip, nouns.other)
        known = {"nouns": {"count": len(words), "hash": digest(words), "other": nouns.other}, "concepts": chosen}
        write_json(run.classes_file, known)
    return {name: facts["nearest"] for name, facts in known.get("concepts", {}).items()}


def nearest(words: Sequence[str], concepts: Sequence[Concept], clip: ClipEmbedder, other: bool) -> dict[str, dict]:
    """Concept -> {"given", "nearest", "similarity"}: the largest cosine of a bare noun (as in the paper, without a
    sentence around it) with the mean of the photos' embeddings. other: never the given class.
    """
    photos = [clip.images([photo.image for photo in concept.load()]) for concept in concepts]
    means = F.normalize(torch.stack([F.normalize(each, dim=1).mean(0) for each in photos]), dim=1)
    best: list[tuple[float, str]] = [(-2.0, "")] * len(concepts)
    for start in range(0, len(words), AT_A_TIME):
        part = words[start : start + AT_A_TIME]
        similar = F.normalize(clip.texts(part), dim=1) @ means.T
        for index, concept in enumerate(concepts):
            own = similar[:, index].clone()
            if other:
                own[[word.casefold() == concept.macro_class.casefold() for word in part]] = -2
            at = int(own.argmax())
            if own[at] > best[index][0]:
                best[index] = float(own[at]), part[at]
    out = {}
    for concept, (similarity, word) in zip(concepts, best):
        if not word:
            raise PersresError(f"The nouns hold no other than the class of {concept.name}, {concept.macro_class!r}.")
        out[concept.name] = {"given": concept.macro_class, "nearest": word, "similarity": round(similarity, 6)}
    return out


def read_nouns(path: Path) -> list[str]:
    """One noun a line, "_" for spaces, # before remarks; or WordNet's own index.noun, where a licence stands first,
    indented, and each line begins with its noun. Words that a prompt cannot hold are left out.
    """
    lines = read_text(path, "The nouns").splitlines()
    if path.name == "index.noun":
        lines = [line.split(" ", 1)[0] for line in lines if not line.startswith(" ")]
    words = (line.partition("#")[0].replace("_", " ").strip() for line in lines)
    found = [word for word in dict.fromkeys(words) if word and _usable(word)]
    if not found:
        raise PersresError(f"{path} holds no noun: give a file with one noun a line.")
    return found


def _words(nouns: Nouns, file: Path | None) -> list[str]:
    if file is not None:
        return read_nouns(file)
    if nouns.source is None:
        raise PersresError(
            "The suite chooses macro classes from a list of nouns: give it with --nouns, a file with one noun a line "
            "(the paper: all nouns of WordNet, its index.noun)."
        )
    return read_nouns(Path(nouns.source)) if isinstance(nouns.source, str) else [check_class(w) for w in nouns.source]


def _usable(word: str) -> bool:
    try:
        return check_class(word) == word
    except PersresError:
        return False
