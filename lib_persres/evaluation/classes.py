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


def nearest_classes(
    run: RunFolder,
    nouns: Nouns,
    concepts: Sequence[Concept],
    clip: ClipEmbedder | None,
    file: Path | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> dict[str, str]:
    """Concept -> noun, for these concepts and those of the run that have one. file: of nouns, before the suite's."""
    known = read_json(run.classes_file, {"concepts": {}})
    if lacking := [concept for concept in concepts if concept.name not in known["concepts"]]:
        words = _words(nouns, file)
        used = {"count": len(words), "hash": digest(words), "other": nouns.other}
        if known.get("nouns", used)["hash"] != used["hash"]:
            raise PersresError(
                f"{run.classes_file} was made with other nouns: give those, or another folder with --out."
            )
        if clip is None:
            raise PersresError("The suite chooses macro classes by CLIP: say with --clip where ViT-B/32 is.")
        told(f"choosing the nearest of {len(words)} nouns for {len(lacking)} concepts")
        known = {"nouns": used, "concepts": known["concepts"] | nearest(words, lacking, clip, nouns.other)}
        write_json(run.classes_file, known)
    return {name: facts["nearest"] for name, facts in known["concepts"].items()}


def nearest(words: Sequence[str], concepts: Sequence[Concept], clip: ClipEmbedder, other: bool) -> dict[str, dict]:
    """Concept -> {"given", "nearest", "similarity"}: the largest cosine of a bare noun (as in the paper, without a
    sentence around it) with the mean of the photos' embeddings. other: never the given class.
    """
    texts, out = F.normalize(clip.texts(words), dim=1), {}
    for concept in concepts:
        photos = F.normalize(clip.images([photo.image for photo in concept.load()]), dim=1)
        similar = texts @ F.normalize(photos.mean(0), dim=0)
        same = [other and word.casefold() == concept.macro_class.casefold() for word in words]
        if all(same):
            raise PersresError(f"The nouns hold no other than the class of {concept.name}, {concept.macro_class!r}.")
        at = int(torch.where(torch.tensor(same), -2.0, similar).argmax())
        found = {"nearest": words[at], "similarity": round(float(similar[at]), 6)}
        out[concept.name] = {"given": concept.macro_class, **found}
    return out


def read_nouns(path: Path) -> list[str]:
    """One noun a line, "_" for spaces, # before remarks; or WordNet's own index.noun, where a licence stands first,
    indented, and each line begins with its noun. Words that a prompt cannot hold are left out.
    """
    lines = read_text(path, "The nouns").splitlines()
    if path.name == "index.noun":
        lines = [line.split(" ", 1)[0] for line in lines if not line.startswith(" ")]
    words = (line.partition("#")[0].replace("_", " ").strip() for line in lines)
    if not (found := [word for word in dict.fromkeys(words) if word and _usable(word)]):
        raise PersresError(f"{path} holds no noun: give a file with one noun a line.")
    return found


def _words(nouns: Nouns, file: Path | None) -> list[str]:
    source = file or nouns.source
    if source is None:
        raise PersresError(
            "The suite chooses macro classes from a list of nouns: give it with --nouns, a file with one noun a line "
            "(the paper: all nouns of WordNet, its index.noun)."
        )
    if isinstance(source, tuple):
        return [check_class(word) for word in source]
    return read_nouns(Path(source))


def _usable(word: str) -> bool:
    try:
        return check_class(word) == word
    except PersresError:
        return False
