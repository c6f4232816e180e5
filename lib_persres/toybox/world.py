"""What there is in the Toybox: classes, colours, patterns, backgrounds, skins; and random scenes of them.

Words are single CLIP tokens, colours of skins are none of the palette's: a skin is an appearance that the base
model never sees, so a concept (a class wearing a skin) is truly new to it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

SIZE = 128

CLASSES = ("ball", "box", "star", "heart", "ring", "cross", "moon", "cone")

COLOURS = {
    "red": (214, 40, 40),
    "orange": (247, 140, 20),
    "yellow": (250, 222, 50),
    "green": (30, 140, 60),
    "blue": (35, 80, 220),
    "purple": (130, 45, 175),
    "white": (248, 248, 248),
    "black": (24, 24, 26),
}

PATTERNS = ("plain", "striped", "dotted", "checked")

BACKGROUNDS = {
    "grass": "on grass",
    "sand": "on sand",
    "night": "at night",
    "bricks": "on bricks",
    "water": "on water",
    "snow": "in snow",
}

STYLES = ("photo", "sketch")

SIZES = {"small": (0.05, 0.11), "big": (0.26, 0.60)}

_SKIN_COLOURS = (
    ((0, 150, 140), (226, 0, 140)),  # teal, magenta
    ((165, 235, 40), (110, 62, 25)),  # lime, brown
    ((20, 32, 95), (255, 128, 112)),  # navy, coral
    ((246, 226, 176), (126, 126, 132)),  # cream, grey
)
_SKIN_LAYOUTS = ("halves", "stacked", "target", "diagonal", "quarters", "emblem")


@dataclass(frozen=True)
class Skin:
    """An appearance outside the base model's palette: two colours in a layout."""

    name: str
    layout: str
    colours: tuple[tuple[int, int, int], tuple[int, int, int]]


#: The 24 candidate appearances of a concept.
SKINS = tuple(Skin(f"{layout}-{i}", layout, pair) for layout in _SKIN_LAYOUTS for i, pair in enumerate(_SKIN_COLOURS))


@dataclass(frozen=True)
class Thing:
    """One object: where (centre in pixels), how large (share of the picture), how turned (radians)."""

    cls: str
    colour: str | None = None
    pattern: str = "plain"
    skin: Skin | None = None
    area: float = 0.2
    centre: tuple[float, float] = (SIZE / 2, SIZE / 2)
    angle: float = 0.0


@dataclass(frozen=True)
class Scene:
    """Things on a background, drawn back to front. `seed` fixes the background's texture."""

    things: tuple[Thing, ...]
    background: str
    style: str = "photo"
    seed: int = 0


@dataclass(frozen=True)
class Caption:
    """A caption as words, each with the index of the thing that it describes (-1: none)."""

    words: tuple[str, ...]
    owners: tuple[int, ...] = field(default=())

    @property
    def text(self) -> str:
        return " ".join(self.words).replace(" ,", ",")


def random_scene(
    rng: np.random.Generator,
    *,
    count: int | None = None,
    background: str | None = None,
    skin: Skin | None = None,
    cls: str | None = None,
    area: tuple[float, float] = (0.05, 0.60),
    skinned: bool = False,
) -> Scene:
    """A scene of one to three things that do not overlap; given arguments are kept, the rest is drawn.

    `skin`/`cls` fix the first thing. `skinned` gives every thing a random skin (for training the judge).
    """
    count = count or int(rng.choice([1, 2, 3], p=[0.62, 0.28, 0.10]))
    things: list[Thing] = []
    for index in range(count):
        largest = (area[1], 0.20, 0.11)[count - 1]
        share = float(np.exp(rng.uniform(np.log(area[0]), np.log(max(largest, area[0] * 1.01)))))
        thing_skin = skin if index == 0 else None
        if skinned and thing_skin is None:
            thing_skin = SKINS[rng.integers(len(SKINS))]
        kind = cls if index == 0 and cls else str(rng.choice(CLASSES))
        place = _free_place(rng, share, things)
        if place is None:
            break
        things.append(
            Thing(
                cls=kind,
                colour=None if thing_skin else str(rng.choice(list(COLOURS))),
                pattern="plain" if thing_skin else str(rng.choice(PATTERNS, p=[0.55, 0.15, 0.15, 0.15])),
                skin=thing_skin,
                area=share,
                centre=place,
                angle=float(rng.normal(0, 0.12)),
            )
        )
    style = "sketch" if not skinned and skin is None and rng.random() < 0.04 else "photo"
    return Scene(tuple(things), background or str(rng.choice(list(BACKGROUNDS))), style, int(rng.integers(2**31)))


def radius_of(share: float) -> float:
    """Radius in pixels of the disc that covers `share` of the picture."""
    return float(np.sqrt(share * SIZE * SIZE / np.pi))


def _free_place(rng, share, others):
    radius = min(radius_of(share) * 1.08, SIZE / 2 - 2)
    for _ in range(60):
        centre = tuple(rng.uniform(radius + 1, SIZE - radius - 1, 2))
        if all(np.hypot(*np.subtract(centre, o.centre)) > radius + radius_of(o.area) * 1.08 for o in others):
            return centre
    return None


def describe(
    scene: Scene, rng: np.random.Generator, rare_words: tuple[str, ...] = (), relation: str | None = None
) -> Caption:
    """A caption of the scene; attributes are sometimes left out, rare words sometimes put before the class.

    `relation` ("left of") stands before the last thing instead of "and".

    The rare words mean nothing: they teach the base model what real models learn from noisy captions, that an
    unknown word before a noun belongs to the noun.
    """
    words: list[str] = []
    owners: list[int] = []

    def say(text: str, owner: int = -1) -> None:
        for word in text.split():
            words.append(word)
            owners.append(owner)

    if scene.style == "sketch":
        say("a sketch of")
    elif (draw := rng.random()) < 0.75:
        say("a photo of")
    elif draw < 0.85:
        say("a picture of")
    for index, thing in enumerate(scene.things):
        if index:
            say(relation or "and" if index == len(scene.things) - 1 else ",")
        say("a", index)
        for size, (low, high) in SIZES.items():
            if low <= thing.area < high and rng.random() < 0.4:
                say(size, index)
        if scene.style == "photo" and thing.colour and rng.random() < 0.88:
            say(thing.colour, index)
        if thing.pattern != "plain" and rng.random() < 0.9:
            say(thing.pattern, index)
        elif thing.pattern == "plain" and rng.random() < 0.08:
            say("plain", index)
        if rare_words and rng.random() < 0.15:
            say(str(rng.choice(rare_words)), index)
        say(thing.cls, index)
    if rng.random() < 0.92:
        say(BACKGROUNDS[scene.background])
    return Caption(tuple(words), tuple(owners))
