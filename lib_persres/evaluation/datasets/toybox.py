"""The Toybox as a dataset: 16 concepts, 12 of them untuned, with 20 prompts each and their truth."""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import PersresError
from ...toybox.concepts import CONCEPTS, photograph, photograph_class
from ...toybox.prompts import prompts_of
from ...toybox.truth import Expected
from ...toybox.world import BACKGROUNDS
from .dataset import Concept, Dataset, Pair, Prompt

PHOTOS = 5
CLASS_IMAGES = 40


def read(folder: str | os.PathLike, *, photos: int = PHOTOS, class_images: int = 0) -> Dataset:
    """Draw the photos into `folder` (each only once) and describe them; the concepts that were tuned on come last.

    class_images: so many pictures of each class in the palette's colours, for training with regularization images.
    """
    folder, made = Path(folder), []
    for truth in sorted(CONCEPTS, key=lambda concept: concept.tuned):
        classes = folder / "classes" / truth.cls if class_images else None
        files = [folder / truth.name / f"{truth.name}-{index}.png" for index in range(photos)]
        try:
            if not all(file.is_file() for file in files):
                files = photograph(truth, folder / truth.name, photos)
            if classes:
                photograph_class(truth.cls, classes, class_images)
        except OSError as error:
            raise PersresError(f"The Toybox's photos cannot be written into {folder}: {error.strerror}.") from error
        places = tuple(words for name, words in BACKGROUNDS.items() if name != truth.background)
        prompts = tuple(Prompt(*asked) for asked in prompts_of(truth))
        concept = Concept(
            truth.name,
            truth.cls,
            tuple(files),
            prompts,
            classes,
            group=truth.cls,
            places=places[:2],
            truth=truth,
            tuned=truth.tuned,
        )
        made.append(concept)
    return Dataset("Toybox", tuple(made), _pairs([concept for concept in made if not concept.tuned]))


def _pairs(concepts: list[Concept]) -> tuple[Pair, ...]:
    """Neighbours of different classes, two by two."""
    prompts = tuple(
        Prompt(f"a photo of a {{0}} and a {{1}} {words}", "add object", None, Expected(background=name))
        for name, words in BACKGROUNDS.items()
    )
    return tuple(
        Pair(f"{first.name}+{second.name}", (first, second), prompts)
        for first, second in zip(concepts[::2], concepts[1::2])
        if first.macro_class != second.macro_class
    )
