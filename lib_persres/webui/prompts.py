"""From the prompts that the WebUI was given to what each of its conditioned rows says about the concepts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modules import extra_networks, prompt_parser

from ..errors import PersresError
from ..learned_words import pieces
from ..prompt import NETWORK, ConceptTokens, Tag, find_concept_tokens, read_tag, substitute
from .files import Loaded

FARTHEST = 1000
"""More than a word has vectors."""


@dataclass(frozen=True, eq=False)
class Concept:
    """A concept of one image: its tag, and its residual or, where it has none, the reason."""

    tag: Tag
    loaded: Loaded | None
    problem: str | None = None

    @property
    def identifier(self) -> str:
        return self.loaded.residual.metadata.identifier if self.loaded else ""

    @property
    def macro_class(self) -> str:
        return self.loaded.residual.metadata.macro_class if self.loaded else ""


def read_concepts(prompt: str, load: Callable[[str], Loaded], problem: Callable[[str], None]) -> list[Concept]:
    """The concepts of a prompt, in the order of their tags; of two tags for one name the last counts.

    problem: told each sentence for the user. A tag that cannot be used is left out, or, if it names a concept,
    keeps its place without a residual, so that V2* still means the second one.
    """
    concepts: dict[str, Concept] = {}
    for params in extra_networks.parse_prompt(prompt)[1].get(NETWORK, ()):
        try:
            tag = read_tag(params.items)
        except PersresError as error:
            problem(str(error))
            continue
        try:
            concept = Concept(tag, load(tag.name))
        except PersresError as error:
            problem(f"{tag.text} was not applied: {error}")
            concept = Concept(tag, None, str(error))
        concepts[str(concept.loaded.entry.path) if concept.loaded else tag.name] = concept
    return list(concepts.values())


def write_identifiers(
    prompt: str, concepts: Sequence[Concept], problem: Callable[[str], None], words: Sequence[str]
) -> str:
    """The prompt with the identifiers where V* stood; a concept without a residual leaves only its class word.

    words: for each concept the learned word that stands in its identifier's place, or "".
    """
    if not concepts:
        return prompt  # without a tag V* is a word like any other
    try:
        written = substitute(prompt, [c.identifier for c in concepts], [c.macro_class for c in concepts])
    except PersresError as error:
        problem(str(error))
        return prompt
    parts = pieces(written, [bool(word) for word in words])
    return "".join(part if isinstance(part, str) else words[part] for part in parts)


@dataclass(frozen=True)
class Texts:
    """The texts of one part (AND) of a prompt, in the order of its schedule: (last step, text)."""

    schedule: tuple[tuple[int, str], ...]

    def at(self, step: int) -> str:
        # the WebUI's rule, prompt_parser.reconstruct_multicond_batch: past the last entry it is the first again
        return next((text for end, text in self.schedule if step <= end), self.schedule[0][1])


def parts_of(prompts: Sequence[str], steps: int, hires_steps: int | None, old_scheduling: bool) -> list[list[Texts]]:
    """For each prompt its parts, as the WebUI makes conds of them."""
    indexes, flat, _ = prompt_parser.get_multicond_prompt_list(prompts)
    schedules = prompt_parser.get_learned_conditioning_prompt_schedules(flat, steps, hires_steps, old_scheduling)
    texts = [Texts(tuple((int(end), text) for end, text in schedule)) for schedule in schedules]
    return [[texts[index] for index, _ in parts] for parts in indexes]


class Tokens:
    """Where concepts' tokens are in the context of a text, by a model's own tokenizer; remembered for each text."""

    def __init__(self, cond_stage_model):
        self.model = cond_stage_model
        self._found: dict[tuple, ConceptTokens] = {}

    def find(self, text: str, concepts: Sequence[Concept], index: int, words: Sequence[str]) -> ConceptTokens:
        """The tokens of the index-th of an image's concepts. An index into the context is 77·chunk + k.

        words: as in `write_identifiers`. The vectors of a word have ids of their own here, below zero.
        """
        if not concepts[index].identifier:
            problem = f"The file of {concepts[index].loaded.name} names no identifier, so LAG cannot see where it is."
            return ConceptTokens((), problem, identifier_found=False, class_found=False)
        key = (text, index, *words, *((c.identifier, c.macro_class) for c in concepts))
        if key not in self._found:
            chunks = self.model.process_texts([text])[0][0]
            ids: list[int] = []
            learned = {word: [-1 - FARTHEST * place] for place, word in enumerate(dict.fromkeys(words)) if word}
            for chunk in chunks:
                start = len(ids) + 1  # a chunk's first token is no word's
                ids += [int(token) for token in chunk.tokens]
                for offset, embedding in chunk.fixes:
                    if embedding.name in learned:
                        first = learned[embedding.name][0]
                        learned[embedding.name] = [first - number for number in range(int(embedding.vectors))]
                        place = slice(start + offset, start + offset + int(embedding.vectors))
                        ids[place] = learned[embedding.name]
            spelled = [
                (learned.get(word) or self._ids(c.identifier), self._ids(c.macro_class))
                for c, word in zip(concepts, words, strict=True)
            ]
            concept = concepts[index]
            self._found[key] = find_concept_tokens(
                ids,
                *spelled[index],
                identifier=concept.identifier,
                macro_class=concept.macro_class,
                concept=concept.loaded.name,
                placeholder="V*" if index == 0 else f"V{index + 1}*",
                others=[pair for i, pair in enumerate(spelled) if i != index and pair[0]],
            )
        return self._found[key]

    def _ids(self, text: str) -> list[int]:
        return [int(token) for token in self.model.tokenize([text])[0]] if text else []
