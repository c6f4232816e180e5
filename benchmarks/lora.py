"""LoRA files under LAG on the Toybox: what they do outside of their thing, and two of them in one picture.

Each concept is learned as a LoRA of rank 16 on attentions and feed-forward (the recipe `lora`, its rate and steps
fitted to the Toybox), written with kohya's names and read back: what is drawn is the file.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import torch

from lib_persres.lora.adapter import load_file
from lib_persres.lora.write import save_lora
from lib_persres.residual import Residual
from lib_persres.standalone.checkpoint import StableDiffusion, load
from lib_persres.standalone.generate import generate
from lib_persres.toybox import CHECKPOINT
from lib_persres.toybox.concepts import CONCEPTS, ToyConcept
from lib_persres.toybox.judge import Judge
from lib_persres.toybox.world import SIZE
from lib_persres.training.recipe import Stage
from lib_persres.training.recipes import RECIPES

from .masks import PLACES, STEPS, mean, thing_of, wears
from .toybox_concepts import Scores, learn, prompts_for, score

FOLDER = Path(os.environ.get("PERSRES_LORAS") or "outputs/loras")
STAGE = Stage("attn1+attn2+ff", "16", 300, learning_rate=4e-3, keep=1, keep_weight=0.15, t_power=1.0, decay=True)
RECIPE = replace(RECIPES["lora"], stages=(STAGE,), crops=0)
PAIRS = 44
METHODS = {"base": {"lag": False}, "plain": {"lag": False}, "lag": {"lag": True}}


def learned() -> dict[str, tuple[ToyConcept, Residual]]:
    """The untuned concepts' LoRA files, by the concepts' names; what is missing is learned."""
    concepts = [concept for concept in CONCEPTS if not concept.tuned]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_learn, concepts))
    return {concept.name: (concept, load_file(_file(concept))) for concept in concepts}


def _file(concept: ToyConcept) -> Path:
    return FOLDER / f"{concept.name}.safetensors"


def _learn(concept: ToyConcept) -> None:
    if _file(concept).exists():
        return
    torch.set_num_threads(1)
    residual, _ = learn(load(CHECKPOINT, "cpu"), concept, FOLDER / "photos" / concept.name, RECIPE)
    save_lora(residual, _file(concept))
    print(f"{concept.name}: learned", file=sys.stderr, flush=True)


def word_of(lora: Residual) -> str:
    """Its trigger, which its header has: the identifier and the class."""
    return lora.words[0]  # type: ignore[attr-defined]  # of an Adapter


def said(text: str, concepts: Sequence[ToyConcept], loras: Sequence[Residual]) -> str:
    """A prompt in which the triggers stand for "V1* ball"."""
    for place, (concept, lora) in enumerate(zip(concepts, loras, strict=True), start=1):
        for mark in (f"V{place}* {concept.cls}", f"V* {concept.cls}"):
            text = text.replace(mark, word_of(lora))
    return text


def alone(sd: StableDiffusion, judge: Judge, loras: dict[str, tuple[ToyConcept, Residual]]) -> dict:
    """`lora.background_ratio` and `lora.identity_drop`."""
    scores = Scores()
    for name, (concept, lora) in loras.items():
        for number, prompt in enumerate(prompts_for(concept)):
            images = {
                method: generate(
                    sd,
                    f"<persres:{name}:{float(method != 'base')}>{said(prompt.text, [concept], [lora])}",
                    lambda _, lora=lora: lora,
                    seeds=[1000 * number],
                    width=SIZE,
                    height=SIZE,
                    steps=STEPS,
                    **options,
                ).images
                for method, options in METHODS.items()
            }
            scores.rows += score(judge, concept, prompt, images)
    table = scores.table()
    told = "; ".join(
        f"{method}: " + ", ".join(f"{which} {value:.3f}" for which, value in row.items())
        for method, row in table.items()
    )
    beside = ", ".join(f"{m} {scores.means(m, 'recognised', category='add object'):.2f}" for m in METHODS)
    return {
        "lora.background_ratio": (table["lag"]["outside"] / table["plain"]["outside"], told),
        "lora.identity_drop": (
            table["plain"]["recognised"] - table["lag"]["recognised"],
            f"recognised beside an added object: {beside}",
        ),
    }


def pairs(sd: StableDiffusion, judge: Judge, loras: dict[str, tuple[ToyConcept, Residual]]) -> dict:
    """`lora.multi`: pairs of two classes; plainly, which is what the built-in Lora's sum draws, and under LAG."""
    every = [pair for pair in combinations(loras, 2) if loras[pair[0]][0].cls != loras[pair[1]][0].cls]
    chosen = [every[number * len(every) // PAIRS] for number in range(PAIRS)]
    found: dict[str, list[tuple[bool, bool, bool, bool]]] = {"plain": [], "lag": []}
    for number, pair in enumerate(chosen):
        concepts, files = zip(*(loras[name] for name in pair))
        first, second = concepts
        text = f"a photo of a V1* {first.cls} and a V2* {second.cls} {PLACES[number % len(PLACES)]}"
        tags = "".join(f"<persres:{name}>" for name in pair)
        for method, kept in found.items():
            (seen,) = judge.see(
                generate(
                    sd,
                    tags + said(text, concepts, files),
                    lambda name: loras[name][1],
                    seeds=[50 * number],
                    width=SIZE,
                    height=SIZE,
                    steps=STEPS,
                    lag=method == "lag",
                ).images
            )
            kept.append(
                (
                    wears(seen, first, first.skin),
                    wears(seen, second, second.skin),
                    all(thing_of(seen, concept) is not None for concept in concepts),
                    wears(seen, first, second.skin) or wears(seen, second, first.skin),
                )
            )
    told = "; ".join(
        ", ".join(
            (
                f"{method}: both {mean([a and b for a, b, _, _ in kept]):.2f}",
                f"each {mean([(a + b) / 2 for a, b, _, _ in kept]):.2f}",
                f"both there {mean([there for _, _, there, _ in kept]):.2f}",
                f"swapped {mean([swapped for *_, swapped in kept]):.2f}",
            )
        )
        for method, kept in found.items()
    )
    return {"lora.multi": (mean([a and b for a, b, _, _ in found["lag"]]), f"{len(chosen)} pairs; {told}")}


def figures() -> dict[str, tuple[float, str]]:
    sd, judge, loras = load(CHECKPOINT, "cpu"), Judge.load(), learned()
    return {**alone(sd, judge, loras), **pairs(sd, judge, loras)}


def export() -> dict[str, tuple[float, str]]:
    """`export.max_difference`, in the WebUI of PERSRES_WEBUI, on the Toybox in each family's format."""
    command = [sys.executable, "-m", "pytest", "-q", "-s", "tests/webui/test_families.py", "-k", "exported"]
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.findall(r"export\.max_difference, (\w+): ([\d.]+), imported ([\d.]+)", done.stdout)
    if done.returncode or not found:
        raise RuntimeError(f"the WebUI's tests broke off: {done.stdout[-400:]}")
    told = "; ".join(f"{family}: exported {one}, imported {other}" for family, one, other in found)
    return {"export.max_difference": (max(float(each) for _, *pair in found for each in pair), told)}
