"""The Toybox's figures: each function measures some and returns {name: value}; see `benchmarks.figures`."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from lib_persres.identifiers import IDENTIFIERS
from lib_persres.sampler import noise_for, sample
from lib_persres.standalone.checkpoint import load
from lib_persres.toybox import CHECKPOINT
from lib_persres.toybox.concepts import ToyConcept
from lib_persres.toybox.judge import Judge
from lib_persres.toybox.maps import best_iou, level_maps
from lib_persres.toybox.render import render
from lib_persres.toybox.train_judge import held_out_accuracy
from lib_persres.toybox.world import BACKGROUNDS, CLASSES, COLOURS, SIZE, describe, random_scene

from .toybox_concepts import FIGURED, METHODS, Scores, draw_each, learn, prompts_for, score


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def base(count: int = 192, batch: int = 32) -> dict[str, float]:
    """The judge's accuracy on fresh renderings, and how many single-thing pictures of the base model are all right."""
    judge = Judge.load()
    accuracy = held_out_accuracy(judge)
    _say(f"judge: {accuracy}")
    sd = load(CHECKPOINT, "cpu")
    every = [(cls, colour, place) for cls in CLASSES for colour in COLOURS for place in BACKGROUNDS]
    chosen = [every[i] for i in np.random.default_rng(5).permutation(len(every))[:count]]
    right = {"cls": 0, "colour": 0, "background": 0, "all": 0}
    uncond, _ = sd.encode_prompts([""])
    for start in range(0, count, batch):
        part = chosen[start : start + batch]
        prompts = [f"a photo of a {colour} {cls} {BACKGROUNDS[place]}" for cls, colour, place in part]
        context, _ = sd.encode_prompts(prompts)
        noise = noise_for(list(range(start, start + len(part))), (4, SIZE // 8, SIZE // 8))
        seen = judge.see(sd.decode_latents(sample(sd, context, uncond, noise)))
        for i, (cls, colour, place) in enumerate(part):
            answers = [seen["cls"][i] == cls, seen["colour"][i] == colour, seen["background"][i] == place]
            for name, good in zip(right, [*answers, all(answers)]):
                right[name] += good
            if not all(answers):
                _say(f"{prompts[i]}: {seen['colour'][i]} {seen['cls'][i]}, {seen['background'][i]}")
    _say(f"right of {count}: {right}")
    return {"toybox.judge_accuracy": accuracy["all_right"], "toybox.base_all_right": right["all"] / count}


@torch.no_grad()
def maps(count: int = 120) -> dict[str, float]:
    """Best-threshold IoU of the concept map with the true mask, of rendered scenes noised to t = 200, 400, 600.

    One thing of each scene gets an identifier before its class word; the map of the two tokens is averaged over the
    blocks of a level and over t, scaled up to the picture, and compared with the renderer's mask at the best
    threshold. The mean over scenes, at the best level.
    """
    sd = load(CHECKPOINT, "cpu")
    rng = np.random.default_rng(9)
    found: dict[int, list[float]] = {}
    for index in range(count):
        while (scene := random_scene(rng)).style != "photo":
            pass
        picture, masks = render(scene)
        caption = describe(scene, rng)
        thing = int(rng.integers(len(scene.things)))
        word = max(i for i, owner in enumerate(caption.owners) if owner == thing)
        words = [*caption.words[:word], IDENTIFIERS[0], *caption.words[word:]]
        first = 1 + len(sd.encode_text(" ".join(caption.words[:word])))
        levels = level_maps(sd, picture, " ".join(words), [first, first + 1], index)
        for side, level in levels.items():
            found.setdefault(side, []).append(best_iou(level, torch.from_numpy(masks[thing])))
    means = {side: float(np.mean(values)) for side, values in found.items()}
    _say(f"mean best-threshold IoU by side of the maps: {means}")
    return {"toybox.map_iou": max(means.values())}


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


def summary(scores: Scores) -> dict[str, float]:
    """The figures of a run: recognised by plain sampling and by the base model; LAG against plain."""
    table = scores.table()
    for method, row in table.items():
        _say(f"{method}: " + ", ".join(f"{name} {value:.3f}" for name, value in row.items()))
    recognised = {method: row["recognised"] for method, row in table.items()}
    return {
        "concept.recognised": recognised["plain"],
        "concept.recognised_base": recognised["base"],
        "lag.background_ratio": scores.means("lag", "outside") / scores.means("plain", "outside"),
        "lag.identity_drop": recognised["plain"] - recognised["lag"],
    }
