"""The scores of a pair: a row for each picture, alignment with each of the two concepts, and the Toybox's truth."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

from PIL import Image

from .datasets.dataset import Pair, Prompt
from .datasets.toybox import Expected, Truth
from .methods import Method
from .run_folder import RunFolder, picture_name
from .scores import toybox
from .scores.alignment import image_alignment_of_each, text_alignment_of_each
from .scores.masked import to_pictures
from .scoring import CHUNK, Scorer, number, opened
from .suite import Suite

PLACES = ("first", "second")


def score_pair(run: RunFolder, suite: Suite, pair: Pair, methods: Sequence[Method], scorer: Scorer) -> list[dict]:
    """The rows of every method's pictures. PersresError where one is missing.

    clip_image, dino_image: the mean of those with each concept, which are …_first and …_second.
    """
    photos = [[photo.image for photo in concept.load()] for concept in pair.concepts]
    references = {name: [embedder.images(each) for each in photos] for name, embedder in scorer.embedders()}
    keys = [(index, image) for index in range(len(pair.prompts)) for image in range(suite.sampling.images)]
    rows = []
    for method in methods:
        folder = run.pair(pair.name) / method.piece / method.name
        for start in range(0, len(keys), CHUNK):
            part = keys[start : start + CHUNK]
            images = [opened(folder / f"{picture_name(*key)}.png") for key in part]
            rows += _rows(pair, method, part, images, references, scorer)
    return rows


def _rows(pair: Pair, method: Method, keys, images: list[Image.Image], references, scorer: Scorer) -> list[dict]:
    prompts = [pair.prompts[index] for index, _ in keys]
    texts = [prompt.without_identifier(*(c.macro_class for c in pair.concepts)) for prompt in prompts]
    columns = {}
    for name, embedder in scorer.embedders():
        embedded = embedder.images(images)
        if name == "clip":
            columns["clip_text"] = text_alignment_of_each(embedded, embedder.texts(texts))
        each = [image_alignment_of_each(embedded, own) for own in references[name]]
        columns[f"{name}_image"] = sum(each) / len(each)
        columns |= {f"{name}_image_{place}": values for place, values in zip(PLACES, each)}
    truths = [concept.truth for concept in pair.concepts]
    seen = None
    if scorer.judge is not None and all(isinstance(truth, Truth) for truth in truths):
        seen = toybox.look(scorer.judge, to_pictures(images))
    rows = []
    for at, (index, image) in enumerate(keys):
        row = {"method": method.name, "concept": pair.name, "category": "two concepts"}
        row |= {"prompt": index, "text": texts[at], "image": image}
        row |= {name: number(values[at]) for name, values in columns.items()}
        rows.append(row | (judged(seen[at], prompts[at], *truths) if seen else {}))
    return rows


def judged(sight: toybox.Sight, prompt: Prompt, first: Truth, second: Truth) -> dict[str, float | None]:
    """What a picture truly shows of two concepts.

    both: two things, one of each class. own: the share of the two that are there in their own skin. other: the share
    that wear the other's. each_own: both are there, each in its own. background: as the prompt says.
    """
    truths = (first, second)
    best = max(
        permutations([*sight.things, None, None], 2),
        key=lambda pair: (_of_class(pair, truths), _wearing(pair, truths), _area(pair)),
    )
    both = _of_class(best, truths) == 2
    own = _wearing(best, truths)
    expected = prompt.expected
    asked = expected.background if isinstance(expected, Expected) else None
    return {
        "both": float(both),
        "own": own / 2,
        "other": _wearing(best, truths[::-1], truths) / 2,
        "each_own": float(own == 2),
        "background": None if asked is None else float(sight.background == asked),
    }


def _of_class(things, truths) -> int:
    return sum(thing is not None and thing.cls == truth.cls for thing, truth in zip(things, truths))


def _wearing(things, skins, classes=None) -> int:
    """Of how many the thing is of its class and in the skin of `skins`."""
    return sum(
        thing is not None and thing.cls == truth.cls and thing.skin == worn.skin
        for thing, worn, truth in zip(things, skins, classes or skins)
    )


def _area(things) -> float:
    return sum(thing.area for thing in things if thing is not None)
