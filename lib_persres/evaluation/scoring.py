"""The scores of a concept: a row for each picture, from the pictures on disk and the references alone."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..errors import PersresError
from ..toybox.judge import Judge
from .datasets.dataset import Concept, Prompt
from .datasets.toybox import Truth
from .methods import BASE, Method
from .protocol import WITHOUT, prompts_of
from .run_folder import RunFolder, picture_name
from .scores import toybox
from .scores.alignment import image_alignment_of_each, text_alignment_of_each
from .scores.embedders import ClipEmbedder, DinoEmbedder
from .scores.masked import (
    auc,
    background_copied,
    background_distance,
    drift,
    iou,
    object_alignment,
    to_pictures,
)
from .suite import Suite

CHUNK = 64
"""Pictures held at a time."""


@dataclass(frozen=True)
class Scorer:
    """What is used; None is left out. judge: sees the Toybox's truth. threads: torch's while scoring; None leaves them.

    The Toybox's models are so small that one thread is the fastest, and that two are ten times slower where another
    process wants the cores.
    """

    clip: ClipEmbedder | None = None
    dino: DinoEmbedder | None = None
    judge: Judge | None = None
    threads: int | None = None

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def embedders(self) -> Iterator[tuple[str, object]]:
        for name, embedder in (("clip", self.clip), ("dino", self.dino)):
            if embedder is not None:
                yield name, embedder


def score_concept(
    run: RunFolder, suite: Suite, concept: Concept, methods: Sequence[Method], scorer: Scorer
) -> list[dict]:
    """The rows of every method's pictures. PersresError where one is missing."""
    return _Scoring(run, suite, concept, methods, scorer).rows()


class _Scoring:
    def __init__(self, run: RunFolder, suite: Suite, concept: Concept, methods: Sequence[Method], scorer: Scorer):
        self.run, self.concept, self.methods, self.scorer = run, concept, methods, scorer
        self.prompts = prompts_of(concept, suite.sampling.prompts)
        self.truth = concept.truth if scorer.judge is not None and isinstance(concept.truth, Truth) else None
        every = [(index, image) for index in self.prompts for image in range(suite.sampling.images)]
        self.asked = [key for key in every if self.prompts[key[0]].category != WITHOUT]
        self.other = [key for key in every if self.prompts[key[0]].category == WITHOUT]
        self.base = next((method for method in methods if method.piece == BASE), None)
        photos = [photo.image for photo in concept.load()]
        self.references = {name: embedder.images(photos) for name, embedder in scorer.embedders()}
        if self.truth:
            shown = to_pictures(photos)
            self.shown = shown, toybox.masks(toybox.look(scorer.judge, shown), shown)

    def folder(self, method: Method) -> Path:
        return self.run.piece(self.concept.name, method.piece) / method.name

    def images(self, method: Method, keys: Sequence[tuple[int, int]]) -> list[Image.Image]:
        out = []
        for key in keys:
            out.append(opened(self.folder(method) / f"{picture_name(*key)}.png"))
        return out

    def rows(self) -> list[dict]:
        rows: list[dict] = []
        sights = {m.name: self._look(m) for m in self.methods} if self.truth else {}
        things = self._things(sights)
        for method in self.methods:
            seen = sights.get(method.name)
            for start in range(0, len(self.asked), CHUNK):
                part = slice(start, start + CHUNK)
                judged = (seen[part], things[part]) if self.truth else None
                rows += self._asked(method, self.asked[part], judged)
            if self.base and method is not self.base:
                rows += self._drift(method)
        return rows

    def _look(self, method: Method) -> list[toybox.Sight]:
        parts = (self.asked[start : start + CHUNK] for start in range(0, len(self.asked), CHUNK))
        return [
            sight for keys in parts for sight in toybox.look(self.scorer.judge, to_pictures(self.images(method, keys)))
        ]

    def _things(self, sights: dict[str, list[toybox.Sight]]) -> torch.Tensor | None:
        """Where any method drew a thing, (n,H,W): the background is compared over the same pixels for all."""
        if not sights:
            return None
        like = to_pictures(self.images(self.methods[0], self.asked[:1])).expand(len(self.asked), -1, -1, -1)
        return torch.stack([toybox.masks(seen, like) for seen in sights.values()]).any(0)

    def _asked(self, method: Method, keys, judged) -> list[dict]:
        """judged: what the judge sees in these pictures, and where any method drew a thing; None without a judge."""
        images = self.images(method, keys)
        rows = [self._row(method, key) for key in keys]
        # the given class, whatever noun a method was trained with or drew: all are compared with what was asked for
        texts = [self.prompts[index].without_identifier(self.concept.macro_class) for index, _ in keys]
        columns: dict[str, torch.Tensor] = {}
        for name, embedder in self.scorer.embedders():
            embedded = embedder.images(images)
            if name == "clip":
                columns["clip_text"] = text_alignment_of_each(embedded, embedder.texts(texts))
            columns[f"{name}_image"] = image_alignment_of_each(embedded, self.references[name])
        if judged:
            self._see(method, keys, images, *judged, columns, rows)
        for row, text, at in zip(rows, texts, range(len(rows))):
            row["text"] = text
            row |= {name: number(values[at]) for name, values in columns.items()}
        return rows

    def _see(self, method: Method, keys, images, seen, things, columns, rows) -> None:
        """The scores that need the Toybox's judge: true answers, and everything with masks."""
        pictures = to_pictures(images)
        masks = toybox.masks(seen, pictures)
        for name, embedder in self.scorer.embedders():
            parts = pictures, masks, *self.shown
            columns[f"object_{name}"] = object_alignment(embedder.images, *parts)
            if name == "clip":
                columns["background_copied"] = background_copied(embedder.images, *parts)
        if self.base and method is not self.base:
            columns["background_distance"] = background_distance(
                pictures, to_pictures(self.images(self.base, keys)), things
            )
        if method.lag:
            columns["mask_iou"], columns["mask_auc"] = self._against_truth(method, keys, seen)
        for row, key, sight in zip(rows, keys, seen):
            row |= toybox.score([sight], self.prompts[key[0]], self.truth)[0]

    def _against_truth(self, method: Method, keys, seen) -> tuple[torch.Tensor, torch.Tensor]:
        """LAG's mask against the judge's of the thing called V*: `iou` and `auc`; nan where the mask was not kept or
        nothing is seen."""
        overlap, order = torch.full((2, len(keys)), torch.nan)
        file = self.folder(method) / "masks.npz"
        kept = np.load(file) if file.exists() else {}
        for at, (key, sight) in enumerate(zip(keys, seen)):
            subject = toybox.subject_of(sight, self.prompts[key[0]].expected, self.truth)
            if subject is not None and picture_name(*key) in kept:
                shown = torch.from_numpy(kept[picture_name(*key)]).float()[None], subject.mask[None]
                overlap[at], order[at] = iou(*shown)[0], auc(*shown)[0]
        return overlap, order

    def _drift(self, method: Method) -> list[dict]:
        rows = []
        for key in self.other:
            pictures, base = (to_pictures(self.images(m, [key])) for m in (method, self.base))
            prompt: Prompt = self.prompts[key[0]]
            rows.append(
                {**self._row(method, key), "text": prompt.text, "drift": number(drift(pictures, base)[0])}
            )
        return rows

    def _row(self, method: Method, key: tuple[int, int]) -> dict:
        return {
            "method": method.name,
            "concept": self.concept.name,
            "group": self.concept.group,
            "tuned": bool(getattr(self.concept.truth, "tuned", False)),
            "category": self.prompts[key[0]].category,
            "prompt": key[0],
            "text": "",
            "image": key[1],
        }


def opened(path: Path) -> Image.Image:
    """A picture of the run."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.convert("RGB")
    except (OSError, ValueError) as error:
        raise PersresError(f"The picture {path} cannot be scored: run the evaluation again first.") from error


def number(value: torch.Tensor) -> float | None:
    number = float(value)
    return round(number, 6) if math.isfinite(number) else None
