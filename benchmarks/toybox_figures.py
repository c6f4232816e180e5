"""The Toybox's figures: each function measures some and returns {name: value}; see `benchmarks.figures`."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from lib_persres.standalone.checkpoint import load
from lib_persres.toybox import CHECKPOINT
from lib_persres.toybox.concepts import ToyConcept
from lib_persres.toybox.judge import Judge
from lib_persres.toybox.training.judge import held_out_accuracy

from . import toybox_base
from .toybox_concepts import FIGURED, METHODS, Scores, draw_each, learn, prompts_for, score


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


SHEETS = Path("outputs/toybox")
"""Where contact sheets of what was judged go."""
COUNT = 192
"""Pictures of one thing, and of pairs; half as many twins and places."""


def base() -> dict[str, float]:
    """The judge's accuracy on fresh renderings, and what the base model draws of one thing, pairs, twins and places."""
    accuracy = held_out_accuracy(Judge.load(), 1200)
    _say(f"judge: {accuracy}")
    figures = {"toybox.judge_accuracy": accuracy["one"], "toybox.judge_two": accuracy["two"]}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(_one_kind, toybox_base.FIGURES):
            figures |= found
    return figures


def _one_kind(kind: str) -> dict[str, float]:
    torch.set_num_threads(1)
    return toybox_base.drawn_right(load(CHECKPOINT, "cpu"), Judge.load(), kind, COUNT, _say, SHEETS)


def maps() -> dict[str, float]:
    """Where the words' maps lie, against the renderer's masks, and what the autoencoder loses."""
    sd = load(CHECKPOINT, "cpu")
    return toybox_base.map_ious(sd, say=_say) | toybox_base.reconstruction(sd)


def concepts(per_prompt: int = 2) -> dict[str, float]:
    """Learn every concept, draw its prompts as base, plain and LAG from the same noise, and score them."""
    # so small a UNet gains nothing from a second core: a concept a core, each in a process of its own
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(_one_concept, FIGURED, [per_prompt] * len(FIGURED)))
    return summary(Scores(sum(rows, [])))


def _one_concept(concept: ToyConcept, per_prompt: int) -> list[dict]:
    torch.set_num_threads(1)
    sd, judge = load(CHECKPOINT, "cpu"), Judge.load()
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        residual, _ = learn(sd, concept, Path(folder))
    _say(f"{concept.name}: learned in {time.time() - started:.0f} s, loss {residual.metadata.loss['last']:.4f}")
    scores = Scores()
    for index, prompt in enumerate(prompts_for(concept)):
        images = {m: drawn.images for m, drawn in draw_each(sd, residual, prompt, index, per_prompt).items()}
        scores.rows += score(judge, concept, prompt, images)
    for category in dict.fromkeys(row["category"] for row in scores.rows):
        shares = ", ".join(f"{m} {scores.means(m, 'recognised', category=category):.2f}" for m in METHODS)
        _say(f"{concept.name}, {category}: recognised {shares}")
    return scores.rows


def learning() -> dict[str, float]:
    """Seconds that the demo's concept takes to be learned, with all cores."""
    sd = load(CHECKPOINT, "cpu")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        learn(sd, FIGURED[0], Path(folder))
    return {"concept.seconds": time.perf_counter() - started}


def summary(scores: Scores) -> dict[str, float]:
    """The figures of a run: recognised by plain sampling and by the base model; LAG against plain."""
    table = scores.table()
    for method, row in table.items():
        _say(f"{method}: " + ", ".join(f"{name} {value:.3f}" for name, value in row.items()))
    recognised = {method: row["recognised"] for method, row in table.items()}
    return {
        "concept.recognised": recognised["plain"],
        "concept.added_objects": scores.means("plain", "recognised", category="add object"),
        "concept.other_backgrounds": scores.means("plain", "background", category="change background"),
        "concept.recognised_base": recognised["base"],
        "lag.background_ratio": scores.means("lag", "outside") / scores.means("plain", "outside"),
        "lag.identity_drop": recognised["plain"] - recognised["lag"],
    }
