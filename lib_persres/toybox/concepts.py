"""The concepts of the Toybox: things in skins that the base model has never seen, and photos of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .render import render
from .world import CLASSES, SKINS, random_scene


@dataclass(frozen=True)
class ToyConcept:
    """A class wearing a skin, photographed on one background.

    tuned: the recipes' settings were tried on it, so it proves nothing about other concepts.
    """

    name: str
    cls: str
    skin: str
    background: str
    seed: int
    tuned: bool = False


CONCEPTS = (
    ToyConcept("rex", "ball", "halves-0", "sand", 101, tuned=True),
    ToyConcept("mira", "box", "quarters-1", "snow", 102, tuned=True),
    ToyConcept("otto", "heart", "stacked-2", "grass", 103),
    ToyConcept("nell", "cross", "diagonal-0", "bricks", 104, tuned=True),
    ToyConcept("pip", "cone", "target-0", "night", 106, tuned=True),
    ToyConcept("luna", "moon", "halves-1", "bricks", 201),
    ToyConcept("stella", "star", "quarters-0", "water", 202),
    ToyConcept("gold", "ring", "stacked-0", "night", 203),
    ToyConcept("bea", "ball", "diagonal-1", "snow", 204),
    ToyConcept("kit", "box", "target-2", "grass", 205),
    ToyConcept("vale", "heart", "halves-2", "sand", 206),
    ToyConcept("rood", "cross", "quarters-2", "water", 207),
    ToyConcept("apex", "cone", "stacked-1", "grass", 208),
    ToyConcept("nova", "star", "emblem-1", "bricks", 209),
    ToyConcept("bubo", "ball", "emblem-2", "night", 210),
    ToyConcept("cube", "box", "diagonal-2", "sand", 211),
)
"""16, of which 12 are untuned; no two have the same skin."""


def photograph(concept: ToyConcept, folder: Path, count: int = 5) -> list[Path]:
    """Write `count` PNGs of the concept on its background."""
    skin = next(skin for skin in SKINS if skin.name == concept.skin)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index in range(count):
        rng = np.random.default_rng([concept.seed, index])
        scene = random_scene(rng, count=1, skin=skin, cls=concept.cls, background=concept.background, area=(0.10, 0.32))
        files.append(folder / f"{concept.name}-{index}.png")
        Image.fromarray(render(scene)[0]).save(files[-1])
    return files


def photograph_class(cls: str, folder: Path, count: int) -> None:
    """Photos of things of a class as the base model knows them, each drawn once."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        file = folder / f"{cls}-{index:03}.png"
        if not file.exists():
            rng = np.random.default_rng([31, CLASSES.index(cls), index])
            while (scene := random_scene(rng, count=1, cls=cls, area=(0.10, 0.32))).style != "photo":
                pass
            Image.fromarray(render(scene)[0]).save(file)
