"""From the prompts that the WebUI was given to what each of its conditioned rows says about the concepts."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ...concept_tokens import ConceptTokens, find_concept_tokens, together
from ...emphasis import doubtful
from ...errors import PersresError
from ...learned_words import pieces
from ...lora.adapter import called, more_words, word_in, word_problems
from ...metadata import Metadata
from ...misreadings import misreadings
from ...prompt import NEGATIVE, NETWORK, Substituted, Tag, placeholder_of, read_tag, substitute
from ...residual_folder import Loaded
from ..cards.notes import kept_words
from ..host import HOST
from .text_marks import unmarked
from .words import is_own

FARTHEST = 1000
"""More than a word has vectors."""


@dataclass(frozen=True, eq=False)
class Concept:
    """A concept of one image: its tag, and its residual or, where it has none, the reason."""

    tag: Tag
    loaded: Loaded | None
    problem: str | None = None
    placeholder: str = "V*"
    """How the prompt writes it."""
    lent: str = ""
    """The words by which it lends its look, see `lag_choice.lent`."""
    word: str = ""
    """The prompt's words for it where its file has no identifier, see `lora.adapter.word_in`."""

    @property
    def facts(self) -> Metadata:
        return called(self.loaded.residual, self.word) if self.loaded else Metadata()

    @property
    def identifier(self) -> str:
        return self.facts.identifier

    @property
    def macro_class(self) -> str:
        return self.facts.macro_class


def read_concepts(
    prompt: str, load: Callable[[str], Loaded], problem: Callable[[str], None], what: str = "prompt"
) -> list[Concept]:
    """The concepts of a prompt, in the order of their tags; of two tags for one name the last counts
    that can be read.

    problem: told each sentence for the user. A tag that cannot be read or used keeps its place without a residual, so
    that V2* still means the second one. what: the sentences' name for the prompt.
    """
    concepts: dict[tuple[bool, str], Concept] = {}  # by whether the tag could be read, and its file or name
    text, networks = HOST.parse_tags(prompt)
    for sentence in _problems(text, bool(networks.get(NETWORK)), what, _unknown(networks)):
        problem(sentence)
    for params in networks.get(NETWORK, ()):
        try:
            tag = read_tag(params.items)
        except PersresError as error:
            problem(str(error))
            name = params.items[0].strip() if params.items else ""
            written = Tag(name, text=f"<{NETWORK}:{':'.join(params.items)}>")
            concepts.setdefault((False, name), Concept(written, None, str(error)))
            continue
        try:
            loaded = load(tag.name)
            kept = () if loaded.residual.metadata.identifier else kept_words(loaded.entry.path)
            concept = Concept(tag, loaded, word=word_in(loaded.residual, text, tag, kept))
            for sentence in word_problems(loaded.residual, tag):
                problem(sentence)
        except PersresError as error:
            problem(f"{tag.text} was not applied: {error}")
            concept = Concept(tag, None, str(error))
        concepts[True, str(concept.loaded.entry.path) if concept.loaded else tag.name] = concept
    names = {concept.tag.name for (read, _), concept in concepts.items() if read}
    found = [concept for (read, _), concept in concepts.items() if read or concept.tag.name not in names]
    said = substitute(
        text, [c.identifier for c in found], [c.macro_class for c in found], problem=lambda sentence: None
    )
    named = []
    for number, concept in enumerate(found):
        placeholder = placeholder_of(text, number + 1)
        lent = said.lent(number, concept.macro_class, placeholder)
        named.append(replace(concept, placeholder=placeholder, lent=lent))
    return named


def negative_problems(text: str, concepts: Sequence[Concept]) -> list[str]:
    """Sentences on a negative prompt, whose tags are none and whose V* are those of its image's concepts."""
    return _problems(text, bool(concepts), NEGATIVE)


def _problems(text: str, tagged: bool, what: str, others: Sequence[str] = ()) -> list[str]:
    """Sentences on a text without its tags; its emphasis is our business where it is about concepts."""
    found = misreadings(text, tagged, what, others)
    with contextlib.suppress(PersresError):  # then the WebUI draws nothing, and says why
        parts = re.split(r"(?<!\w)AND(?!\w)", text) if tagged else ()
        found += dict.fromkeys(sentence for part in parts for sentence in doubtful(part, what))
    return found


def _unknown(networks: Mapping[str, Sequence]) -> list[str]:
    """The tags that the WebUI passes over, such as one with capitals."""
    names = [name for name in networks if name != NETWORK and not HOST.knows_network(name)]
    return [f"<{name}:{':'.join(networks[name][0].items)}>" for name in names]


def write_identifiers(
    prompt: str, concepts: Sequence[Concept], problem: Callable[[str], None], words: Sequence[str]
) -> str:
    """The prompt with the identifiers where V* stood; a concept without a residual leaves only its class word, and so
    does a number that has no tag.

    words: for each concept the word that stands in its identifier's place, or "".
    """
    if not concepts:  # without a tag V* is a word like any other
        return prompt
    identifiers, classes = [c.identifier for c in concepts], [c.macro_class for c in concepts]
    written = substitute(prompt, identifiers, classes, [c.tag.text for c in concepts], problem)
    # where a word only keeps a user's embedding away from V*, what was typed is that embedding
    uses = [use for use in written.uses if not (use.typed and is_own(words[use.concept]))]
    parts = pieces(Substituted(written.text, uses), [bool(word) for word in words])
    return "".join(part if isinstance(part, str) else words[part] for part in parts)


@dataclass(frozen=True)
class Texts:
    """The texts of one part (AND) of a prompt, in the order of its schedule: (last step, text)."""

    schedule: tuple[tuple[int, str], ...]

    def at(self, step: int) -> str:
        # the WebUI's rule, prompt_parser.reconstruct_multicond_batch: past the last entry it is the first again
        return next((text for end, text in self.schedule if step <= end), self.schedule[0][1])


def parts_of(prompts: Sequence[str], steps: int, hires_steps: int | None) -> list[list[Texts]]:
    """For each prompt its parts, as the WebUI makes conds of them."""
    return [
        [Texts(tuple((int(end), unmarked(text)) for end, text in schedule)) for schedule in parts]
        for parts in HOST.schedules(prompts, steps, hires_steps)
    ]


class Tokens:
    """Where concepts' tokens are in the context of a text, by a model's own tokenizer; remembered for each text."""

    def __init__(self, encoder) -> None:
        self.encoder = encoder
        self._found: dict[tuple, ConceptTokens] = {}

    def find(self, text: str, concepts: Sequence[Concept], index: int, words: Sequence[str]) -> ConceptTokens:
        """The tokens of the index-th of an image's concepts. An index into the context is 77·chunk + k.

        words: as in `write_identifiers`. The vectors of a word have ids of their own here, below zero.
        """
        key = (text, index, *words, *((c.identifier, c.macro_class, c.word) for c in concepts))
        if key not in self._found:
            ids: list[int] = []
            numbers = _Numbers(word for word in words if word)
            for tokens, embeddings in HOST.chunks(self.encoder, text):
                start = len(ids) + 1  # a chunk's first token is no word's
                ids += tokens
                for offset, name, vectors in embeddings:
                    ids[start + offset : start + offset + vectors] = numbers.of(name, vectors)
            spelled = [
                (numbers.of(word) if word else self._ids(c.identifier, numbers), self._ids(c.macro_class, numbers))
                for c, word in zip(concepts, words, strict=True)
            ]
            # files that are about the same words of the prompt do not compete for them
            shared = [bool(each.word and concepts[index].word) for each in concepts]
            others = [
                pair
                for i, pair in enumerate(spelled)
                if i != index and not (shared[i] and pair[0] == spelled[index][0])
            ]
            own, noun = spelled[index]
            more = [self._ids(word, numbers) for word in more_words(concepts[index].word)]
            self._found[key] = together([find_concept_tokens(ids, each, noun, others=others) for each in (own, *more)])
        return self._found[key]

    def _ids(self, text: str, numbers: _Numbers) -> list[int]:
        """The tokens of a word, as the WebUI reads it: a user's embedding may be called so."""
        tokens = HOST.tokens(self.encoder, text) if text else []
        ids, place = [], 0
        while place < len(tokens):
            if found := HOST.embedding_at(tokens, place):
                name, vectors, used = found
                ids += numbers.of(name, vectors)
                place += used or 1
            else:
                ids.append(tokens[place])
                place += 1
        return ids


class _Numbers:
    """Ids of their own, below zero, for the vectors of embeddings, which have none in a prompt's tokens."""

    def __init__(self, words: Iterable[str]):
        self._known: dict[str, list[int]] = {}
        for word in words:
            self.of(word)

    def of(self, name: str, vectors: int = 1) -> list[int]:
        first = self._known[name][0] if name in self._known else -1 - FARTHEST * len(self._known)
        if len(self._known.get(name, ())) < vectors:
            self._known[name] = [first - number for number in range(vectors)]
        return self._known[name]
