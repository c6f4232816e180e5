"""What an evaluation reads: concepts with their photos and prompts, pairs of concepts, prompts with a place for V*."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import PersresError
from ...filling import fill
from ...training import images
from ...training.images import Photo, load_images

if TYPE_CHECKING:
    from ...toybox.concepts import ToyConcept
    from ...toybox.truth import Expected

CATEGORIES = (
    "identity",
    "change background",
    "add object",
    "change attribute",
    "artistic style",
    "object in the style of V*",
)
"""The prompt types of the paper (supplement, section 6), in the order in which the reports show them."""

WITHOUT = "without V*"
"""The category of the prompts that ask for no concept: what a residual changes in their pictures is drift."""
TOGETHER = "two concepts"
"""The category of a pair's pictures in the scores."""
PLACES = ("on the beach", "in a forest")
"""Where the prompts without V* have their thing, unless the dataset's world knows other places."""


@dataclass(frozen=True)
class Prompt:
    """A prompt with `{}` (of a pair: `{0}` and `{1}`) where "V* class" goes."""

    text: str
    category: str | None = None
    noun: str | None = None
    """The class word after V* where it is not the concept's own: "a V* star" of a concept that is a ball."""
    expected: Expected | None = None
    """What a picture of it must show, where the world can tell."""

    def with_identifier(self, *macro_classes: str) -> str:
        """The prompt to sample: "a photo of a V* dog on the beach"; of a pair "V1* dog", "V2* cat"."""
        signs = ["V*"] if len(macro_classes) == 1 else [f"V{i + 1}*" for i in range(len(macro_classes))]
        return self.fill(*(f"{sign} {self.noun or word}" for sign, word in zip(signs, macro_classes)))

    def without_identifier(self, *macro_classes: str) -> str:
        """V* removed, the class word kept: what CLIP text alignment compares with."""
        return self.fill(*(self.noun or word for word in macro_classes))

    def fill(self, *subjects: str) -> str:
        places = {str(index): subject for index, subject in enumerate(subjects)}
        if len(subjects) == 1:
            places[""] = subjects[0]
        return " ".join(fill(self.text, places, "The prompt").split())


@dataclass(frozen=True)
class Concept:
    """A thing to learn. `name` is unique in its dataset and fit for a file name."""

    name: str
    macro_class: str
    images: tuple[Path, ...]
    prompts: tuple[Prompt, ...]
    class_images: Path | None = None
    """A folder of other things of the class, for training with regularization images; it may be missing."""
    group: str | None = None
    """The broader category in CustomConcept101, over which Figure 14 averages."""
    places: tuple[str, ...] = PLACES
    truth: ToyConcept | None = None
    """What the thing is, where the world can tell."""
    tuned: bool = False
    """Whether settings were tuned on it, so that it proves nothing about others."""

    def load(self) -> list[Photo]:
        """Its photos, read now."""
        return load_images(self.images)

    def load_class(self) -> list[Photo] | None:
        """Other things of its class, None where the dataset has none."""
        return load_images(self.class_images) if self.class_images and self.class_images.is_dir() else None


@dataclass(frozen=True)
class Pair:
    """Two concepts in one picture; the prompts have `{0}` and `{1}`."""

    name: str
    concepts: tuple[Concept, Concept]
    prompts: tuple[Prompt, ...]


@dataclass(frozen=True)
class Dataset:
    name: str
    concepts: tuple[Concept, ...]
    pairs: tuple[Pair, ...] = ()

    def concept(self, name: str) -> Concept:
        for concept in self.concepts:
            if concept.name == name:
                return concept
        names = ", ".join(concept.name for concept in self.concepts)
        raise PersresError(f"There is no concept {name!r} in {self.name}; there are: {names}.")


def check_prompt(text: str, where: str, fields: int = 1) -> str:
    """The prompt, tidied; raises PersresError unless its places for "V* class" are `{}` or `{0}` … (at least one)."""
    text = " ".join(text.split())
    if "{" not in text:
        places = "{}" if fields == 1 else " and ".join(f"{{{i}}}" for i in range(fields))
        raise PersresError(f"{where}: the prompt {text!r} has no {places} where the concept goes.")
    try:
        Prompt(text).fill(*["x"] * fields)
    except PersresError:
        raise PersresError(f"{where}: the prompt {text!r} has braces that cannot be filled in.") from None
    return text


def image_files(folder: Path, what: str) -> tuple[Path, ...]:
    """The image files of a folder by name; raises PersresError where it is missing or holds none."""
    if not folder.is_dir():
        raise PersresError(f"The images of {what} are missing: there is no folder {folder}.")
    if not (found := images.image_files(folder)):
        raise PersresError(f"The images of {what} are missing: the folder {folder} holds no image.")
    return tuple(found)


def read_text(path: Path, what: str) -> str:
    """A file's text; raises PersresError that names it."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not a UTF-8 text"
        raise PersresError(f"{what} {path} cannot be read: {reason}.") from error
