"""The scores of a subject: a row for each picture, from the pictures on disk and the references alone."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from PIL import Image

from ..residual import file_hash
from ..toybox import truth
from ..toybox.judge import Judge, Seen, masks
from .datasets.dataset import TOGETHER, WITHOUT
from .planning import Subject
from .run_folder import RunFolder, digest, picture_name
from .scores import masked
from .scores.alignment import image_alignment, text_alignment
from .scores.clip import ClipEmbedder
from .scores.dino import DinoEmbedder
from .scores.weights import digest_of
from .suite import BASE, Method

CHUNK = 64
"""Pictures held at a time."""
ORDER = ("first", "second")
"""How the two concepts of a pair are called in the columns."""

Keys = Sequence[tuple[int, int]]
"""(prompt, image) each."""


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

    @property
    def embedders(self) -> dict[str, ClipEmbedder | DinoEmbedder]:
        both = {"clip": self.clip, "dino": self.dino}
        return {name: embedder for name, embedder in both.items() if embedder is not None}

    @cached_property
    def digest(self) -> dict[str, str]:
        used = {name: embedder.digest for name, embedder in self.embedders.items()}
        return used | ({"judge": digest_of(self.judge)} if self.judge else {})


def score_subject(
    run: RunFolder, images: int, subject: Subject, methods: Sequence[Method], scorer: Scorer, anew: bool = False
) -> bool:
    """Write the rows of every method's pictures; whether any was made. PersresError where a picture is missing.

    images: of each prompt. A method's rows are kept where its pictures and all that they are scored by are the same;
    rows of methods that are not named stay.
    """
    scoring = _Scoring(run, images, subject, methods, scorer)
    known, made = run.made(subject.name), {method.name: scoring.made_of(method) for method in methods}
    rows: dict[str, list[dict]] = {name: [] for name in made}
    for row in run.rows(subject.name):
        rows.setdefault(row["method"], []).append(row)
    changed = [m for m in methods if anew or known.get(m.name) != made[m.name] or not rows[m.name]]
    for method in changed:
        rows[method.name] = scoring.rows(method)
    if changed:
        scoring.compare(rows)
        run.write_scores(subject.name, [row for own in rows.values() for row in own], known | made)
    return bool(changed)


class _Scoring:
    def __init__(self, run: RunFolder, images: int, subject: Subject, methods: Sequence[Method], scorer: Scorer):
        self.subject, self.methods, self.scorer = subject, methods, scorer
        self.folders = {method.name: run.piece(subject.name, method.piece) for method in methods}
        every = [(index, image) for index in subject.prompts for image in range(images)]
        self.quiet = [key for key in every if subject.prompts[key[0]].category == WITHOUT]
        self.asked = [key for key in every if key not in self.quiet]
        self.chunks = [self.asked[start : start + CHUNK] for start in range(0, len(self.asked), CHUNK)]
        self.base = None if subject.is_pair else next((method for method in methods if method.piece == BASE), None)
        self.truths = [concept.truth for concept in subject.concepts if concept.truth]
        self.classes = [concept.macro_class for concept in subject.concepts]
        self.judge = scorer.judge if len(self.truths) == len(subject.concepts) else None
        self.seen: dict[str, list[list[Seen]]] = {}

    def made_of(self, method: Method) -> str:
        """A digest of all that the method's rows depend on but the other methods' pictures."""
        texts = [[index, prompt.text, prompt.noun, prompt.category] for index, prompt in self.subject.prompts.items()]
        photos = [file_hash(file) for concept in self.subject.concepts for file in concept.images]
        pictures = [self.folders[m.name].digest(m.name) for m in (method, self.base) if m]
        truths = [repr(concept.truth) for concept in self.subject.concepts]
        facts = [self.classes, truths, len(self.asked), method.lag, self.scorer.digest]
        return digest([texts, photos, pictures, facts])

    # -- pictures, and what is seen in them

    def images(self, method: Method, keys: Keys) -> list[Image.Image]:
        return [self.folders[method.name].open(method.name, picture_name(*key)) for key in keys]

    def pictures(self, method: Method, keys: Keys) -> torch.Tensor:
        return masked.to_pictures(self.images(method, keys))

    def sights(self, method: Method) -> list[list[Seen]]:
        """What the judge sees in each picture of each chunk; nothing without one."""
        if method.name not in self.seen:
            judge, chunks = self.judge, self.chunks
            self.seen[method.name] = [judge.see(self.pictures(method, keys)) for keys in chunks] if judge else []
        return self.seen[method.name] or [[] for _ in self.chunks]

    @cached_property
    def photos(self) -> list[list[Image.Image]]:
        """Each concept's."""
        return [[photo.image for photo in concept.load()] for concept in self.subject.concepts]

    @cached_property
    def references(self) -> dict[str, list[torch.Tensor]]:
        """The embeddings of each concept's photos by CLIP and DINO."""
        return {name: list(map(embedder.images, self.photos)) for name, embedder in self.scorer.embedders.items()}

    @cached_property
    def shown(self) -> masked.Shown:
        """The photos of a concept that is alone, and where they show it."""
        assert self.judge is not None  # or nothing was seen to compare with
        pictures = masked.to_pictures(self.photos[0])
        return pictures, masks(self.judge.see(pictures), pictures)

    # -- rows

    def rows(self, method: Method) -> list[dict]:
        rows = []
        for keys, sights in zip(self.chunks, self.sights(method)):
            images = self.images(method, keys)
            columns = self.aligned(images, keys)
            if sights and not self.subject.is_pair:
                columns |= self.apart(method, keys, images, sights)
            for at, key in enumerate(keys):
                row = self.row(method, key) | {name: number(values[at]) for name, values in columns.items()}
                if sights:
                    row |= truth.score(sights[at], self.expected(key), *self.truths)
                rows.append(row)
        if self.base and method is not self.base:
            for key in self.quiet:
                drift = masked.drift(self.pictures(method, [key]), self.pictures(self.base, [key]))
                rows.append(self.row(method, key) | {"drift": number(drift[0])})
        return rows

    def expected(self, key: tuple[int, int]) -> truth.Expected:
        expected = self.subject.prompts[key[0]].expected
        assert expected is not None  # the world that knows its concepts knows its prompts
        return expected

    def row(self, method: Method, key: tuple[int, int]) -> dict:
        concepts, prompt = self.subject.concepts, self.subject.prompts[key[0]]
        return {
            "method": method.name,
            "concept": self.subject.name,
            "group": None if self.subject.is_pair else concepts[0].group,
            "tuned": any(concept.tuned for concept in concepts),
            "category": TOGETHER if self.subject.is_pair else prompt.category,
            "prompt": key[0],
            # the given class, whatever noun a method was trained with or drew: all are compared with what was asked for
            "text": prompt.text if prompt.category == WITHOUT else prompt.without_identifier(*self.classes),
            "image": key[1],
        }

    def aligned(self, images: list[Image.Image], keys: Keys) -> dict[str, torch.Tensor]:
        """With the prompts and with the photos; with a pair's, the mean of those with each concept, and these."""
        columns = {}
        for name, embedder in self.scorer.embedders.items():
            embedded = embedder.images(images)
            if embedder is self.scorer.clip:
                texts = [self.subject.prompts[index].without_identifier(*self.classes) for index, _ in keys]
                columns["clip_text"] = text_alignment(embedded, embedder.texts(texts))
            each = [image_alignment(embedded, own) for own in self.references[name]]
            columns[f"{name}_image"] = sum(each) / len(each)
            if self.subject.is_pair:
                columns |= {f"{name}_image_{place}": values for place, values in zip(ORDER, each)}
        return columns

    def apart(self, method: Method, keys: Keys, images, sights: Sequence[Seen]) -> dict[str, torch.Tensor]:
        """The object and the background apart, and LAG's masks against the judge's of the thing called V*."""
        columns, pictures = {}, masked.to_pictures(images)
        ours = (pictures, masks(sights, pictures)), self.shown
        for name, embedder in self.scorer.embedders.items():
            columns[f"object_{name}"] = masked.object_alignment(embedder.images, *ours)
            if name == "clip":
                columns["background_copied"] = masked.background_copied(embedder.images, *ours)
        if method.lag:
            kept = self.folders[method.name].masks(method.name)
            columns["mask_iou"], columns["mask_auc"] = torch.full((2, len(keys)), torch.nan)
            for at, (key, sight) in enumerate(zip(keys, sights)):
                thing = truth.subject_of(sight, self.expected(key), *self.truths)
                if thing is not None and picture_name(*key) in kept:
                    share = torch.from_numpy(kept[picture_name(*key)]).float()
                    columns["mask_iou"][at] = masked.iou(share, thing.mask)
                    columns["mask_auc"][at] = masked.auc(share, thing.mask)
        return columns

    def compare(self, rows: Mapping[str, list[dict]]) -> None:
        """Fill in what depends on all methods: the backgrounds, over the pixels where none of them drew a thing."""
        if not (self.judge and self.base):
            return
        for at, keys in enumerate(self.chunks):
            base = self.pictures(self.base, keys)
            things = torch.stack([masks(self.sights(method)[at], base) for method in self.methods]).any(0)
            for method in (method for method in self.methods if method is not self.base):
                distance = masked.background_distance(self.pictures(method, keys), base, things)
                found = {(row["prompt"], row["image"]): row for row in rows[method.name]}
                for key, value in zip(keys, distance):
                    found[key]["background_distance"] = number(value)


def number(value: torch.Tensor) -> float | None:
    number = float(value)
    return round(number, 6) if math.isfinite(number) else None
