"""What the texts of a pipeline's call say: tags, V*, where the concepts' tokens are, and what a user is told of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..concept_tokens import ConceptTokens, find_concept_tokens
from ..concepts import Use, decide
from ..emphasis import parts_of
from ..errors import PersresError
from ..masks import DEFAULT, EARLY
from ..misreadings import misreadings, stray_tag
from ..names import one_form
from ..prompt import NEGATIVE, NETWORK, Substituted, Tag, find_tags, parse_tags, placeholder_of
from ..residual import Residual
from .emphasis import not_understood
from .pipeline_inputs import TEXTS
from .reading import LONG, write


@dataclass(frozen=True)
class Read:
    """Of a prompt, each concept's: its tag, where its tokens are, how the prompt writes it, and the words by which it
    lends its look."""

    tags: list[Tag]
    tokens: list[ConceptTokens]
    placeholders: list[str]
    lent: list[str]

    @property
    def strengths(self) -> list[float]:
        return [tag.strength for tag in self.tags]


class Texts:
    """pipe: whose tokenizer reads. named: the residuals. lag: LAG where a tag does not say. mask: its."""

    def __init__(self, pipe: Any, named: Mapping[str, Residual], lag: bool | str, mask: str = DEFAULT):
        self._pipe, self._names, self._lag, self._mask = pipe, list(named), lag, mask
        self._facts = [residual.metadata for residual in named.values()]

    def ids(self, text: str) -> list[int]:
        return self._pipe.tokenizer(text, add_special_tokens=False).input_ids

    def written(self, text: str, name: str) -> Substituted:
        """The text without tags and with the identifiers for V*. name: the argument that it is."""
        if name == "prompt":
            rest, tags = self._tags(text)
            return write(rest, tags, self._facts)
        what = TEXTS[name]
        if any(tag.network == NETWORK for tag in find_tags(text)):
            said = stray_tag(text, what) if what == NEGATIVE else None
            raise PersresError(said or f"A tag in {name} says nothing: write <{NETWORK}:…> into the prompt.")
        return write(text.strip(), [Tag(own, text=own) for own in self._names], self._facts, what)

    def read(self, prompt: str) -> Read:
        rest, tags = self._tags(prompt)
        written = self.written(prompt, "prompt")
        names = [placeholder_of(rest, number) for number in range(1, len(tags) + 1)]
        lent = [written.lent(i, facts.macro_class, names[i]) for i, facts in enumerate(self._facts)]
        return Read(tags, self.find(written), names, lent)

    def find(self, written: Substituted) -> list[ConceptTokens]:
        """Each concept's tokens in what the text encoder is given."""
        tokenizer = self._pipe.tokenizer
        length = tokenizer.model_max_length
        ids = tokenizer(self._converted(written), padding="max_length", truncation=True, max_length=length).input_ids
        spelled = [(self.ids(facts.identifier), self.ids(facts.macro_class)) for facts in self._facts]
        return [
            find_concept_tokens(ids, *own, others=[pair for other, pair in enumerate(spelled) if other != index])
            for index, own in enumerate(spelled)
        ]

    def uses(self, read: Read, done: float = 0.0) -> list[Use]:
        """done: the part of the sampling that lies behind."""
        return [
            decide(
                tag,
                facts,
                [found],
                lag=self._lag,
                done=done,
                placeholder=placeholder,
                lent=lent,
                early=self._mask in EARLY,
                several=sum(tag.strength != 0 for tag in read.tags) > 1,
            )
            for tag, facts, found, placeholder, lent in zip(
                read.tags, self._facts, read.tokens, read.placeholders, read.lent
            )
        ]

    def sentences(self, text: str, name: str, first: Read) -> Iterator[str]:
        """What there is to say of a text. first: what `prompt` says, or a prompt of its list."""
        what = TEXTS[name]
        rest = self._tags(text)[0] if name == "prompt" else text
        written = self.written(text, name)
        yield from misreadings(rest, True, what)
        yield from not_understood(rest, what)
        if _has_emphasis(written):
            where = "" if name == "prompt" else f" in the {what}"
            yield f"Brackets{where} are words to a pipeline: it knows no emphasis."
        if name == "prompt":
            if len(self.ids(self._converted(written))) > self._pipe.tokenizer.model_max_length - 2:
                yield LONG
            for use in self.uses(first):
                yield from use.sentences
        if name == "prompt_2":
            places = zip(self.uses(first), first.tokens, self.find(written), first.placeholders)
            for use, looked, own, placeholder in places:
                if use.gated and own.indices not in ((), looked.indices):
                    yield f"{placeholder} is elsewhere in prompt_2 than in the prompt, where alone LAG looks for it."

    def _tags(self, text: str) -> tuple[str, list[Tag]]:
        """A prompt without its tags, and a tag for each residual."""
        rest, tags = parse_tags(text)
        named = {one_form(tag.name): tag for tag in tags}
        if strange := next((tag.text for name, tag in named.items() if name not in self._names), None):
            raise PersresError(f"The prompt names {strange}, which is none of {', '.join(self._names)}.")
        return rest.strip(), [named.get(name) or Tag(name, text=name) for name in self._names]

    def _converted(self, written: Substituted) -> str:
        """As the pipeline tokenizes it: a textual inversion of several vectors becomes several words."""
        convert = getattr(self._pipe, "maybe_convert_prompt", None)
        return convert(written.text, self._pipe.tokenizer) if convert else written.text


def _has_emphasis(written: Substituted) -> bool:
    try:
        return any(part.weight != 1 for part in parts_of(written))
    except PersresError:  # of a weight that is no number: no fault here, where it is words
        return True
