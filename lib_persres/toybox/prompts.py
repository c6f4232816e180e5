"""The prompts that a concept of the Toybox is asked by, over the paper's six categories, and what each must show.

How the paper's categories are said in the Toybox's captions (`toybox.world.describe`):

- identity, change background, add object: as in the paper, with the world's backgrounds and things.
- change attribute: a colour of the palette, or a size, before V*.
- artistic style: the world's other style, "a sketch of": the whole picture in grey. Sketches are 4% of what the
  base model learned from.
- object in the style of V*: the world has no words "in the style of", but a rare word before a noun belongs to
  the noun: "a photo of a V* star" asks for a star that looks like the concept, which is a ball.
"""

from __future__ import annotations

from typing import NamedTuple

from .concepts import ToyConcept
from .truth import Expected
from .world import BACKGROUNDS, CLASSES


class Asked(NamedTuple):
    """text: with `{}` for the concept. noun: the class word where it is not the concept's own."""

    text: str
    category: str
    noun: str | None
    expected: Expected


def prompts_of(truth: ToyConcept) -> list[Asked]:
    """The 20 prompts of a concept, as in CustomConcept101 the same kinds for each."""
    places = [name for name in BACKGROUNDS if name != truth.background]
    others = [cls for cls in CLASSES if cls != truth.cls]
    # every concept starts elsewhere in the lists, so that no other thing or colour is asked for by all of them
    others = others[truth.seed % len(others) :] + others[: truth.seed % len(others)]
    out: list[Asked] = []

    def ask(category: str, text: str, place: str | None = None, **expected) -> None:
        noun = expected.pop("noun", None)
        text = f"{text} {BACKGROUNDS[place]}" if place else text
        shown = Expected(cls=noun or truth.cls, background=place, **expected)
        out.append(Asked(text, category, noun, shown))

    ask("identity", "a photo of a {}")
    ask("identity", "a picture of a {}")
    ask("identity", "a {}")
    for place in places:
        ask("change background", "a photo of a {}", place)
    for index, colour in enumerate(("red", "yellow", "white")):
        thing = (colour, others[index])
        ask("add object", f"a photo of a {{}} and a {colour} {thing[1]}", places[index], others=(thing,))
    ask("change attribute", "a photo of a blue {}", places[0], colour="blue")
    ask("change attribute", "a photo of a red {}", places[1], colour="red")
    ask("change attribute", "a photo of a big {}", places[2], size="big")
    ask("change attribute", "a photo of a small {}", places[3], size="small")
    # not in snow, which is nearly grey by itself
    coloured = [place for place in places if place != "snow"]
    ask("artistic style", "a sketch of a {}", style="sketch")
    ask("artistic style", "a sketch of a {}", coloured[0], style="sketch")
    ask("artistic style", "a sketch of a {}", coloured[1], style="sketch")
    ask("object in the style of V*", "a photo of a {}", places[3], noun=others[3])
    ask("object in the style of V*", "a photo of a {}", places[4], noun=others[4])
    return out
