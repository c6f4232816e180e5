"""What a picture truly shows of a concept or of two, against what its prompt asked."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

from .concepts import ToyConcept
from .judge import Seen, SeenThing
from .world import SIZES

GREY = 0.07
"""Mean chroma (maximum less minimum of r, g, b in [0,1]) under which a whole picture is a sketch: the renderer's
sketches have 0, the base model's 0.03 to 0.05; photos of coloured things on any background but snow 0.1 or more."""


@dataclass(frozen=True)
class Expected:
    """What a picture must show to obey its prompt; None and () are not asked for."""

    cls: str | None = None
    """The class of the thing that is called V*."""
    background: str | None = None
    colour: str | None = None
    size: str | None = None
    style: str = "photo"
    others: tuple[tuple[str, str], ...] = ()
    """(colour, class) of further things."""


def score(sight: Seen, expected: Expected, *truths: ToyConcept) -> dict[str, float | None]:
    """What a picture of one concept or of two truly shows: 1 is right, 0 wrong, None was not asked or cannot be told.

    Of one: identity: the thing called V* wears the concept's skin, of 24 the nearest (not asked where the prompt
    recolours it or asks for a sketch). class, background, colour, size, style, others: as the prompt says. obeyed: all
    of these. area: the share of the picture that the thing covers.

    Of two: both: two things, one of each class. own: the share of the two that are there in their own skin. other: the
    share that wear the other's. each_own: both are there, each in its own. background: as the prompt says.
    """
    if len(truths) == 2:
        return _of_two(sight, expected, truths)
    (truth,) = truths
    subject = subject_of(sight, expected, truth)
    rest = [thing for thing in sight.things if thing is not subject]
    sketch = expected.style == "sketch"
    asked: dict[str, bool | None] = {
        "class": None if expected.cls is None else subject is not None and subject.cls == expected.cls,
        "background": None if expected.background is None or sketch else sight.background == expected.background,
        "colour": None if expected.colour is None else subject is not None and subject.colour == expected.colour,
        "size": None if expected.size is None else subject is not None and _has_size(subject, expected.size),
        "style": sight.chroma < GREY if sketch else None,
        "others": all(any((t.colour, t.cls) == other for t in rest) for other in expected.others)
        if expected.others
        else None,
    }
    told = [value for value in asked.values() if value is not None]
    identity = None if sketch or expected.colour else subject is not None and subject.skin == truth.skin
    row = {"identity": identity, **asked, "obeyed": all(told) if told else None}
    numbers = {name: None if value is None else float(value) for name, value in row.items()}
    return {**numbers, "area": subject.area if subject else 0.0}


def _of_two(sight: Seen, expected: Expected, truths: tuple[ToyConcept, ...]) -> dict[str, float | None]:
    def there(things, skins: tuple[ToyConcept, ...] | None) -> int:
        """How many things are of their classes, and in these concepts' skins."""
        worn = [None] * 2 if skins is None else [concept.skin for concept in skins]
        return sum(
            thing is not None and thing.cls == truth.cls and skin in (None, thing.skin)
            for thing, truth, skin in zip(things, truths, worn)
        )

    def area(things) -> float:
        return sum(thing.area for thing in things if thing is not None)

    best = max(
        permutations([*sight.things, None, None], 2),
        key=lambda things: (there(things, None), there(things, truths), area(things)),
    )
    own, asked = there(best, truths), expected.background
    return {
        "both": float(there(best, None) == 2),
        "own": own / 2,
        "other": there(best, truths[::-1]) / 2,
        "each_own": float(own == 2),
        "background": None if asked is None else float(sight.background == asked),
    }


def subject_of(sight: Seen, expected: Expected, truth: ToyConcept) -> SeenThing | None:
    """The thing that is called V*: the largest; beside others the one most like it."""
    if not sight.things:
        return None
    if not expected.others:
        return sight.things[0]
    others = set(expected.others)
    return max(
        sight.things,
        key=lambda t: ((t.colour, t.cls) not in others, t.skin == truth.skin, t.cls == expected.cls, t.area),
    )


def _has_size(thing: SeenThing, size: str) -> bool:
    low, high = SIZES[size]
    # a thing smaller than the world's small ones is small, too
    return thing.area < high if size == "small" else low <= thing.area
