"""The Toybox as a dataset: 12 concepts with 20 prompts each over the paper's six categories, all with their truth.

How the paper's categories are said in the Toybox's captions (`toybox.world.describe`):

- identity, change background, add object: as in the paper, with the world's backgrounds and things.
- change attribute: a colour of the palette, or a size, before V*.
- artistic style: the world's other style, "a sketch of": the whole picture in grey. Sketches are 4% of what the
  base model learned from.
- object in the style of V*: the world has no words "in the style of", but a rare word before a noun belongs to
  the noun: "a photo of a V* star" asks for a star that looks like the concept, which is a ball.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import PersresError
from ...toybox.concepts import CONCEPTS, photograph
from ...toybox.render import render
from ...toybox.world import BACKGROUNDS, CLASSES, random_scene
from .dataset import Concept, Dataset, Pair, Prompt

PHOTOS = 5
CLASS_IMAGES = 40


@dataclass(frozen=True)
class Truth:
    """What a concept is: a class wearing a skin, photographed on a background."""

    cls: str
    skin: str
    background: str
    seed: int
    tuned: bool = False
    """Whether the recipes were tuned on it: such concepts prove nothing about others."""


@dataclass(frozen=True)
class Expected:
    """What a picture must show to obey its prompt; None and () are not asked for."""

    cls: str | None = None
    """The class of the thing that is called V*."""
    background: str | None = None
    colour: str | None = None
    size: str | None = None
    style: str = "photo"
    others: tuple[tuple[str, str], ...] = ()
    """(colour, class) of further things."""


def read(
    folder: str | os.PathLike, *, tuned: bool = False, photos: int = PHOTOS, class_images: int = 0
) -> Dataset:
    """Draw the photos into `folder` (each only once) and describe them.

    tuned: the four concepts that recipes were tuned on, too. class_images: so many pictures of each class in the
    palette's colours, for training with regularization images.
    """
    folder = Path(folder)
    made = []
    for concept in CONCEPTS:
        if concept.tuned and not tuned:
            continue
        files = [folder / concept.name / f"{concept.name}-{index}.png" for index in range(photos)]
        try:
            if not all(file.is_file() for file in files):
                files = photograph(concept, folder / concept.name, photos)
            classes = _class_images(folder / "classes" / concept.cls, concept.cls, class_images)
        except OSError as error:
            raise PersresError(f"The Toybox's photos cannot be written into {folder}: {error.strerror}.") from error
        truth = Truth(concept.cls, concept.skin, concept.background, concept.seed, concept.tuned)
        made.append(
            Concept(
                concept.name, concept.cls, tuple(files), prompts_of(truth), classes, group=concept.cls, truth=truth
            )
        )
    return Dataset("Toybox", tuple(made), _pairs(made))


def prompts_of(truth: Truth) -> tuple[Prompt, ...]:
    """The 20 prompts of a concept, as in CustomConcept101 the same kinds for each."""
    places = [name for name in BACKGROUNDS if name != truth.background]
    others = [cls for cls in CLASSES if cls != truth.cls]
    # every concept starts elsewhere in the lists, so that no other thing or colour is asked for by all of them
    others = others[truth.seed % len(others) :] + others[: truth.seed % len(others)]
    out: list[Prompt] = []

    def ask(category: str, text: str, place: str | None = None, **expected) -> None:
        noun = expected.pop("noun", None)
        text = f"{text} {BACKGROUNDS[place]}" if place else text
        shown = Expected(cls=noun or truth.cls, background=place, **expected)
        out.append(Prompt(text, category, noun, shown))

    ask("identity", "a photo of a {}")
    ask("identity", "a picture of a {}")
    ask("identity", "a {}")
    for place in places:
        ask("change background", "a photo of a {}", place)
    for index, colour in enumerate(("red", "yellow", "white")):
        thing = (colour, others[index])
        ask("add object", f"a photo of a {{}} and a {colour} {thing[1]}", places[index], others=(thing,))
    ask("change attribute", "a photo of a blue {}", places[0], colour="blue")
    ask("change attribute", "a photo of a red {}", places[1], colour="red")
    ask("change attribute", "a photo of a big {}", places[2], size="big")
    ask("change attribute", "a photo of a small {}", places[3], size="small")
    # not in snow, which is nearly grey by itself
    coloured = [place for place in places if place != "snow"]
    ask("artistic style", "a sketch of a {}", style="sketch")
    ask("artistic style", "a sketch of a {}", coloured[0], style="sketch")
    ask("artistic style", "a sketch of a {}", coloured[1], style="sketch")
    ask("object in the style of V*", "a photo of a {}", places[3], noun=others[3])
    ask("object in the style of V*", "a photo of a {}", places[4], noun=others[4])
    return tuple(out)


def _pairs(concepts: list[Concept]) -> tuple[Pair, ...]:
    """Neighbours of different classes, two by two."""
    pairs = []
    for first, second in zip(concepts[::2], concepts[1::2]):
        if first.macro_class == second.macro_class:
            continue
        prompts = tuple(
            Prompt(f"a photo of a {{0}} and a {{1}} {words}", "add object", None, Expected(background=name))
            for name, words in BACKGROUNDS.items()
        )
        pairs.append(Pair(f"{first.name}+{second.name}", (first, second), prompts))
    return tuple(pairs)


def _class_images(folder: Path, cls: str, count: int) -> Path | None:
    """Photos of things of a class as the base model knows them, drawn once."""
    if not count:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        file = folder / f"{cls}-{index:03}.png"
        if not file.exists():
            rng = np.random.default_rng([31, CLASSES.index(cls), index])
            while (scene := random_scene(rng, count=1, cls=cls, area=(0.10, 0.32))).style != "photo":
                pass
            Image.fromarray(render(scene)[0]).save(file)
    return folder
