"""Scenes that teach to compose: one thing and two in equal shares, three in a few, twins, words of place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .world import COLOURS, SIZE, Caption, Scene, describe, random_scene

#: Shares of scenes of one, two and three things.
COUNTS = (0.45, 0.45, 0.10)
#: Share of the scenes of several things whose second is of the first one's class.
TWINS = 0.25
#: Share of the captions of two things, where their places allow it, that say how they lie.
PLACED = 0.7

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def scene_of(seed: int, index: int) -> Scene:
    """The `index`-th scene of the set with this seed."""
    rng = np.random.default_rng([seed, index])
    count = int(rng.choice([1, 2, 3], p=COUNTS))
    while len((scene := random_scene(rng, count=count)).things) < count:
        pass  # there was no room left
    things = list(scene.things)
    if len(things) > 1 and rng.random() < TWINS:
        things[1] = replace(things[1], cls=things[0].cls)
    for i, thing in enumerate(things):  # things of one class have different looks, or no caption could tell them apart
        taken = {other.colour for other in things[:i] if other.cls == thing.cls}
        if thing.colour in taken:
            things[i] = replace(thing, colour=str(rng.choice([c for c in COLOURS if c not in taken])))
    return replace(scene, things=tuple(things))


def relation(first: tuple[float, float], second: tuple[float, float]) -> str | None:
    """How the first centre (x, y in pixels) lies to the second: "left of", "above"…; None where neither is clear."""
    dx, dy = first[0] - second[0], first[1] - second[1]
    if max(abs(dx), abs(dy)) < SIZE / 5 or max(abs(dx), abs(dy)) < 1.5 * min(abs(dx), abs(dy)):
        return None
    if abs(dx) > abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def caption_of(scene: Scene, rng: np.random.Generator, rare_words: tuple[str, ...] = ()) -> Caption:
    """A caption with its things in any order; of two things it sometimes says how they lie."""
    order = rng.permutation(len(scene.things))
    shuffled = replace(scene, things=tuple(scene.things[i] for i in order))
    place = relation(*(thing.centre for thing in shuffled.things)) if len(order) == 2 else None
    caption = describe(shuffled, rng, rare_words, place if rng.random() < PLACED else None)
    return replace(caption, owners=tuple(int(order[owner]) if owner >= 0 else -1 for owner in caption.owners))
