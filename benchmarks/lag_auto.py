"""LAG on, off and auto on the six categories of prompts: whether auto loses to the better of the other two."""

from __future__ import annotations

import pandas as pd
import torch

from lib_persres.evaluation.statistics import difference, means
from lib_persres.lag_choice import LAG
from lib_persres.standalone.checkpoint import load
from lib_persres.standalone.generate_each import generate_each
from lib_persres.toybox import CHECKPOINT
from lib_persres.toybox.judge import Judge
from lib_persres.toybox.prompts import prompts_of
from lib_persres.toybox.truth import score
from lib_persres.toybox.world import SIZE

from .masks import STEPS, learned

SCORES = ("right", "obeyed", "identity")
"""right is what a user wants: all that the prompt asks, and the concept where it can be told; by it one way is better
than another. The other two are told."""


def rows() -> pd.DataFrame:
    """A line for each picture: concept, category, method and its scores; the same noise for each method."""
    sd, judge, residuals = load(CHECKPOINT, "cpu"), Judge.load(), learned()
    lines = []
    for name, (concept, _) in residuals.items():
        asked = prompts_of(concept)
        texts = [f"<persres:{name}> {each.text.format(f'V* {each.noun or concept.cls}')}" for each in asked]
        for lag in LAG:
            made = generate_each(
                sd,
                texts,
                lambda given: residuals[given][1],
                seeds=list(range(len(texts))),
                width=SIZE,
                height=SIZE,
                steps=STEPS,
                lag=lag,
            )
            for each, seen in zip(asked, judge.see(torch.cat([one.images for one in made]))):
                told = score(seen, each.expected, concept)
                asked_for = [told[which] for which in SCORES[1:] if told[which] is not None]
                told["right"] = float(all(asked_for)) if asked_for else None
                scores = {which: told[which] for which in SCORES}
                lines.append({"concept": name, "category": each.category, "method": lag, **scores})
    return pd.DataFrame(lines)


def figures() -> dict[str, tuple[float, str]]:
    found, told, worst = rows(), [], 0.0
    for category in dict.fromkeys(found["category"]):
        for name in SCORES:
            table = means(found, name, category=category)
            if table.empty:
                continue
            told.append(f"{category}, {name}: {', '.join(f'{lag} {table[lag].mean():.2f}' for lag in LAG)}")
            for other in ("on", "off") if name == SCORES[0] else ():
                less = difference(table, other, "auto")
                worst = max(worst, less.low if less else 0.0)
    return {"auto.regret": (worst, "; ".join(told))}
