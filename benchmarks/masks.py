"""How well LAG's mask fits what is drawn, and two concepts in one picture, on the Toybox.

The residuals are those that the evaluation's suite "toybox" learned, each on photos of its thing alone; the truth is
the judge's mask of the thing in the finished picture.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Sequence
from itertools import combinations
from pathlib import Path

import torch
import torch.nn.functional as F

from lib_persres.commands import main
from lib_persres.mask import Mask, View
from lib_persres.masks import DEFAULT, MASKS
from lib_persres.residual import Residual
from lib_persres.standalone.checkpoint import StableDiffusion, load
from lib_persres.standalone.generate import generate
from lib_persres.toybox import CHECKPOINT
from lib_persres.toybox.concepts import CONCEPTS, ToyConcept
from lib_persres.toybox.judge import Judge, Seen
from lib_persres.toybox.world import BACKGROUNDS, SIZE
from lib_persres.unet import Block, find_blocks

from .tables import FOLDER

PLACES = tuple(BACKGROUNDS.values())
PAIRS, TRIPLES, STEPS = 44, 24, 20
WATCHED = "watched"


class Watched(Mask):
    """Another mask, whose gates of the finest output block are kept, of each step."""

    def __init__(self, own: Mask, block: str):
        self._own, self._block, self._step = own, block, 0
        self.kept: dict[int, tuple[tuple, torch.Tensor]] = {}

    def asks(self, block: Block, gated: bool) -> Collection[str]:
        return self._own.asks(block, gated)

    def wants(self, view: View) -> bool:
        return self._own.wants(view)

    def begin(self, step: int, done: float | None) -> None:
        self._step = step
        self._own.begin(step, done)

    def see(self, view: View, maps: torch.Tensor) -> None:
        self._own.see(view, maps)

    def see_self(self, view: View, layer: int, q: torch.Tensor, k: torch.Tensor, heads: int) -> None:
        self._own.see_self(view, layer, q, k, heads)

    def gate(self, view: View) -> torch.Tensor:
        gates = self._own.gate(view)
        if view.block == self._block:
            self.kept[self._step] = view.rows, gates.unflatten(-1, view.size)
        return gates


@contextlib.contextmanager
def watching(sd: StableDiffusion, mask: str) -> Iterator[Watched]:
    watched = Watched(MASKS[mask](), find_blocks(sd.unet)[-1].name)
    MASKS[WATCHED] = lambda: watched
    try:
        yield watched
    finally:
        del MASKS[WATCHED]


def learned() -> dict[str, tuple[ToyConcept, Residual]]:
    """The residuals of the untuned concepts by their names, as an evaluation learned them; one is made where its folder
    lacks them."""
    folder = Path(os.environ.get("PERSRES_EVALUATION") or FOLDER)
    concepts = [concept for concept in CONCEPTS if not concept.tuned]

    def files() -> list[Path]:
        pieces = [folder / "pieces" / concept.name / "residual" for concept in concepts]
        return [path for piece in pieces for path in sorted(piece.glob("*.safetensors"))[:1]]

    if len(files()) < len(concepts) and main(["evaluate", "run", "--suite", "toybox", "--out", str(folder)]):
        raise RuntimeError("the evaluation broke off")
    return {concept.name: (concept, Residual.load(path)) for concept, path in zip(concepts, files(), strict=True)}


def overlaps(watched: Watched, truths: Sequence[Sequence[torch.Tensor | None]]) -> tuple[list[float], list[float]]:
    """Of the last two thirds of the steps: IoU of each concept's mask with its own thing, and which part of the other
    thing it takes. truths: of each image each concept's thing, None where the judge does not see it."""
    ious, leaks = [], []
    last = max(watched.kept) + 1
    for step, (rows, gates) in watched.kept.items():
        for row, own in zip(rows, gates) if 3 * step >= last else ():
            large = F.interpolate(own[None], size=(SIZE, SIZE), mode="nearest")[0] > 0.5
            for k, truth in enumerate(truths[row.image]):
                if truth is None:
                    continue
                ious.append(((large[k] & truth).sum() / (large[k] | truth).sum()).item())
                others = [other for j, other in enumerate(truths[row.image]) if j != k and other is not None]
                leaks += [((large[k] & other).sum() / other.sum()).item() for other in others]
    return ious, leaks


def thing_of(seen: Seen, concept: ToyConcept) -> torch.Tensor | None:
    """The mask of the largest thing of its class."""
    return next((thing.mask for thing in seen.things if thing.cls == concept.cls), None)


def wears(seen: Seen, concept: ToyConcept, skin: str) -> bool:
    return any(thing.cls == concept.cls and thing.skin == skin for thing in seen.things)


def mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


def drawn(sd: StableDiffusion, residuals: dict, prompt: str, seeds: list[int], **options) -> torch.Tensor:
    given = {"seeds": seeds, "width": SIZE, "height": SIZE, "steps": STEPS, **options}
    return generate(sd, prompt, lambda name: residuals[name][1], **given).images


def one_thing(sd: StableDiffusion, judge: Judge, residuals: dict) -> dict[str, tuple[float, str]]:
    ious: dict[str, list[float]] = {name: [] for name in (DEFAULT, "median")}
    for number, (name, (concept, _)) in enumerate(residuals.items()):
        for place in (PLACES[number % len(PLACES)], PLACES[(number + 2) % len(PLACES)]):
            prompt = f"<persres:{name}> a photo of a V* {concept.cls} {place}"
            for mask, found in ious.items():
                with watching(sd, mask) as watched:
                    pictures = drawn(sd, residuals, prompt, [10 * number, 10 * number + 1], lag=True, mask=WATCHED)
                found += overlaps(watched, [[thing_of(seen, concept)] for seen in judge.see(pictures)])[0]
    return {"mask.iou": (mean(ious[DEFAULT]), f"median {mean(ious['median']):.2f}; {len(ious[DEFAULT])} masks")}


def two_things(sd: StableDiffusion, judge: Judge, residuals: dict) -> dict[str, tuple[float, str]]:
    """Plain, under the median and under the default mask, from the same noise."""
    pairs = list(combinations(residuals, 2))
    twins = [pair for pair in pairs if residuals[pair[0]][0].cls == residuals[pair[1]][0].cls]
    others = [pair for pair in pairs if pair not in twins]
    every = len(others) / (PAIRS - len(twins))
    chosen = twins + [others[int(index * every)] for index in range(PAIRS - len(twins))]
    scores: dict[str, dict[str, list[float]]] = {
        name: {"each its own": [], "both there": [], "swapped": [], "twins": []}
        for name in ("plain", "median", DEFAULT)
    }
    ious, leaks = [], []
    for number, pair in enumerate(chosen):
        first, second = (residuals[name][0] for name in pair)
        place = PLACES[number % len(PLACES)]
        prompt = f"<persres:{pair[0]}><persres:{pair[1]}> a photo of a V1* {first.cls} and a V2* {second.cls} {place}"
        for name, found in scores.items():
            with watching(sd, DEFAULT if name == "plain" else name) as watched:
                (seen,) = judge.see(drawn(sd, residuals, prompt, [50 * number], lag=name != "plain", mask=WATCHED))
            own = wears(seen, first, first.skin) and wears(seen, second, second.skin)
            if first.cls == second.cls:
                found["twins"].append(own)
            else:
                truths = [thing_of(seen, concept) for concept in (first, second)]
                found["both there"].append(all(truth is not None for truth in truths))
                found["swapped"].append(wears(seen, first, second.skin) or wears(seen, second, first.skin))
                if name == DEFAULT:
                    for kept, values in zip((ious, leaks), overlaps(watched, [truths])):
                        kept += values
            found["each its own"].append(own)
    told = "; ".join(
        f"{name}: {', '.join(f'{what} {mean(values):.2f}' for what, values in found.items())}"
        for name, found in scores.items()
    )
    best = scores[DEFAULT]
    return {
        "mask.iou_two": (mean(ious), f"{len(ious)} masks of pairs of two classes"),
        "mask.leak": (mean(leaks), f"{len(leaks)} masks"),
        "multi.recognised": (mean(best["each its own"]), f"{len(chosen)} pairs, {len(twins)} of them twins; {told}"),
        "multi.swapped": (mean(best["swapped"]), "pairs of two classes of which a thing wears the other's skin"),
    }


def three_things(sd: StableDiffusion, judge: Judge, residuals: dict) -> dict[str, tuple[float, str]]:
    """Three concepts of three classes, under the default mask and plain, from the same noise."""
    threes = [three for three in combinations(residuals, 3) if len({residuals[name][0].cls for name in three}) == 3]
    chosen = [threes[index * len(threes) // TRIPLES] for index in range(TRIPLES)]
    found: dict[str, list[list[bool]]] = {"plain": [], DEFAULT: []}
    for number, names in enumerate(chosen):
        concepts = [residuals[name][0] for name in names]
        things = [f"a V{place}* {concept.cls}" for place, concept in enumerate(concepts, start=1)]
        tags = "".join(f"<persres:{name}>" for name in names)
        prompt = f"{tags} a photo of {', '.join(things[:-1])} and {things[-1]} {PLACES[number % len(PLACES)]}"
        for name, own in found.items():
            (seen,) = judge.see(drawn(sd, residuals, prompt, [70 * number], lag=name != "plain"))
            own.append([wears(seen, concept, concept.skin) for concept in concepts])
    told = "; ".join(
        f"{name}: all three {mean(list(map(all, own))):.2f}, each of them {mean([mean(row) for row in own]):.2f}"
        for name, own in found.items()
    )
    return {"multi.three": (mean([mean(row) for row in found[DEFAULT]]), f"{len(chosen)} triples; {told}")}


def figures() -> dict[str, tuple[float, str]]:
    sd, judge, residuals = load(CHECKPOINT, "cpu"), Judge.load(), learned()
    return {**one_thing(sd, judge, residuals), **two_things(sd, judge, residuals), **three_things(sd, judge, residuals)}
