"""What the figures `concept.*` and `lag.*` are measured by: each concept learned, its prompts drawn and judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from lib_persres.evaluation.scores.masked import background_distance
from lib_persres.residual import Residual
from lib_persres.standalone.checkpoint import StableDiffusion
from lib_persres.standalone.generate import Generated, generate
from lib_persres.toybox.concepts import CONCEPTS, ToyConcept, photograph
from lib_persres.toybox.judge import Judge, masks
from lib_persres.toybox.world import BACKGROUNDS, SIZE
from lib_persres.training.images import Photo, load_images
from lib_persres.training.loop import train
from lib_persres.training.recipe import Recipe
from lib_persres.training.recipes import RECIPES

FIGURED = CONCEPTS[:5]
"""The concepts that the figures are measured on: five classes, five layouts, on five backgrounds."""


@dataclass(frozen=True)
class Prompt:
    """A prompt with V*, its category, and the truths that the judge can check."""

    text: str
    category: str
    background: str | None = None


def prompts_for(concept: ToyConcept) -> list[Prompt]:
    """New backgrounds, an added object, a recoloured concept: eight prompts."""
    cls = concept.cls
    elsewhere = [name for name in BACKGROUNDS if name != concept.background]
    other = "star" if cls != "star" else "box"
    scenes = [Prompt(f"a photo of a V* {cls} {BACKGROUNDS[name]}", "change background", name) for name in elsewhere]
    return [
        *scenes,
        Prompt(f"a photo of a V* {cls}", "identity"),
        Prompt(f"a photo of a V* {cls} and a red {other} {BACKGROUNDS[elsewhere[0]]}", "add object", elsewhere[0]),
        Prompt(f"a photo of a blue V* {cls} {BACKGROUNDS[elsewhere[1]]}", "change attribute", elsewhere[1]),
    ]


def learn(
    sd: StableDiffusion, concept: ToyConcept, folder: Path, recipe: Recipe | None = None, seed: int = 0, progress=None
) -> tuple[Residual, list[Photo]]:
    photos = load_images(photograph(concept, folder))
    residual = train(
        sd,
        photos,
        concept.name,
        concept.cls,
        recipe or RECIPES["toybox"],
        resolution=SIZE,
        seed=seed,
        progress=progress,
    )
    return residual, photos


METHODS = ("base", "plain", "lag")
SCORES = ("recognised", "class", "background", "outside")
KEEPING = ("change background", "identity")
"""Where one thing is asked for, with its own look: what the judge can tell."""


def draw(
    sd: StableDiffusion, residual: Residual, prompt: Prompt, seeds: list[int], method: str, **options
) -> Generated:
    """The prompt's pictures by one method, from the same noise for every method.

    The base model gets the prompt with V* replaced by the identifier: the same tokens, no residual.
    """
    name = residual.metadata.concept
    text = f"<persres:{name}:{0.0 if method == 'base' else 1.0}>{prompt.text}"
    return generate(sd, text, lambda _: residual, seeds=seeds, width=SIZE, height=SIZE, lag=method == "lag", **options)


def draw_each(sd: StableDiffusion, residual: Residual, prompt: Prompt, number: int, count: int) -> dict[str, Generated]:
    """`count` pictures of the prompt by every method; prompts of different numbers begin from different noise."""
    seeds = [1000 * number + i for i in range(count)]
    return {method: draw(sd, residual, prompt, seeds, method) for method in METHODS}


@dataclass
class Scores:
    """Sums over pictures; `means` gives the means."""

    rows: list[dict] = field(default_factory=list)

    def means(self, method: str, score: str, **where) -> float:
        chosen = [
            row[score]
            for row in self.rows
            if row["method"] == method
            and row.get(score) is not None
            and all(row[key] in (value if isinstance(value, tuple) else (value,)) for key, value in where.items())
        ]
        return float(np.mean(chosen)) if chosen else float("nan")

    def table(self) -> dict[str, dict[str, float]]:
        """The mean of every score by method, of the prompts in KEEPING."""
        return {method: {name: self.means(method, name, category=KEEPING) for name in SCORES} for method in METHODS}


def score(judge: Judge, concept: ToyConcept, prompt: Prompt, images: dict[str, torch.Tensor]) -> list[dict]:
    """A row for each picture of each method. images: method -> (b,3,128,128), all from the same noise.

    recognised: a thing of the concept's class wears its skin, as the nearest of the 24. background: the asked one is
    seen. class: the concept's class is seen. outside: mean absolute difference to the base picture, in grey levels,
    over the pixels that lie in no method's thing (masks by the judge, grown by 4 pixels; the same for every method).
    """
    seen = {method: judge.see(pictures) for method, pictures in images.items()}
    things = torch.stack([masks(seen[method], pictures) for method, pictures in images.items()]).any(0)
    rows = []
    for method, pictures in images.items():
        outside = background_distance(pictures, images["base"], things)
        for picture, distance in zip(seen[method], outside):
            own = [thing for thing in picture.things if thing.cls == concept.cls]
            asked = prompt.background is not None
            rows.append(
                {
                    "concept": concept.name,
                    "category": prompt.category,
                    "prompt": prompt.text,
                    "method": method,
                    "recognised": float(any(thing.skin == concept.skin for thing in own)),
                    "class": float(bool(own)),
                    "background": float(picture.background == prompt.background) if asked else None,
                    "outside": None if distance.isnan() else float(distance),
                }
            )
    return rows
