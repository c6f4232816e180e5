"""What is asked of a method, the same for every one: prompts, texts, noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..identifiers import choose_identifier
from .datasets.dataset import WITHOUT, Concept, Pair, Prompt

MOST_IMAGES = 10_000


def prompts_of(concept: Concept, count: int | None = None) -> dict[int, Prompt]:
    """Prompt index -> prompt: the concept's own (or `count` of them, taken category by category in turn), and two
    without V*. An index is the prompt's place in the dataset, whatever is chosen."""
    chosen = list(range(len(concept.prompts)))
    if count is not None:
        seen: dict[str | None, int] = {}
        order = []
        for index in chosen:
            category = concept.prompts[index].category
            order.append((seen.setdefault(category, 0), index))
            seen[category] += 1
        chosen = sorted(index for _, index in sorted(order)[:count])
    quiet = [Prompt(f"a photo of a {concept.macro_class} {place}", WITHOUT) for place in concept.places]
    return {index: concept.prompts[index] for index in chosen} | dict(enumerate(quiet, len(concept.prompts)))


def asked_text(prompt: Prompt, macro_classes: Sequence[str], without_class: bool = False) -> str:
    """The prompt with V*. Without the class V* stands alone; an object in the style of V* keeps its own noun."""
    if without_class and prompt.noun is None:
        return prompt.fill("V*")
    return prompt.with_identifier(*macro_classes)


def noise_seed(prompt: int, image: int) -> int:
    """Of (prompt index, image index) alone: every method begins from the same noise."""
    return MOST_IMAGES * prompt + image


def identifier_numbers(pairs: Iterable[Pair]) -> dict[str, int]:
    """Concept -> which of the free identifiers it is trained with, where it is not the first (0).

    The two of a pair stand in one prompt, so theirs differ; all other concepts share the first, as every method does.
    """
    pairs = list(pairs)
    names = {pair.name: [concept.name for concept in pair.concepts] for pair in pairs}
    numbers: dict[str, int] = {}
    for pair in pairs:
        for concept in pair.concepts:
            if concept.name not in numbers:
                partners = {other.name for p in pairs for other in p.concepts if concept.name in names[p.name]}
                taken = {numbers[name] for name in partners if name in numbers}
                numbers[concept.name] = next(n for n in range(len(taken) + 1) if n not in taken)
    return {name: number for name, number in numbers.items() if number}


def identifier_of(encode: Callable[[str], list[int]], number: int) -> str:
    """The free identifier of that number."""
    taken: list[str] = []
    for _ in range(number):
        taken.append(choose_identifier(encode, taken))
    return choose_identifier(encode, taken)
