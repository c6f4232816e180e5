"""Words of our own among the WebUI's embeddings, only while it encodes the texts of their own generation.

A word is written into the texts under a name of its own, with the file's hash: no user's embedding is called so, and
the WebUI's cache of conds knows one file's vectors from another's. It has the learned vectors of a file; or the model's
own vectors of the identifier, where a user's embedding would be read in its place, or another concept has the same
words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

from ...errors import PersresError
from ...learned_words import check_widths, learned_vectors
from ...metadata import Metadata
from ...prompt import NETWORK
from ...residual_folder import Loaded
from ..fit import FAMILIES, misfit
from ..host import HOST
from .lent import Lent

LONGEST = 75
"""Tokens that a chunk of a prompt has room for."""
OWN = f"{NETWORK}own"


def word_of(facts: Metadata, loaded: Loaded, used: bool, twin: bool = False) -> str:
    """What the WebUI's texts call a concept; "" for one that keeps its identifier.

    facts: what is known of it in its prompt. used: whether its learned word, where it has one, is to be there.
    twin: see `learned_words.twins_of`.
    """
    if _reads_more():
        return ""
    if not loaded.residual.metadata.identifier:
        return ""  # the prompt's own words, which several files may be about
    copy = _digits(loaded.name)[:6] if twin else ""  # two files may hold the same
    if used and learned_vectors(loaded.residual):
        return f"{NETWORK}{loaded.short_hash}{copy}"
    if not (twin or is_taken(facts.identifier)):
        return ""
    return f"{OWN}{loaded.short_hash}{copy}"


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _reads_more() -> bool:
    """Whether the loaded model is of a family whose texts CLIP does not read alone."""
    return HOST.family(HOST.model()) not in ("", *FAMILIES)


def is_own(word: str) -> bool:
    """Whether it is a word for the model's own vectors of an identifier."""
    return word.startswith(OWN)


def is_taken(identifier: str) -> bool:
    """Whether a user's embedding may be read where the identifier stands, alone or with words beside it."""
    tokens = HOST.tokens(HOST.text_encoder(HOST.model()), identifier) if identifier else []
    return any(_overlap(tokens, list(ids)) for ids in _names())


def _names() -> Iterator[Sequence[int]]:
    """The tokens of all users' embeddings."""
    return (ids for lookup in HOST.embeddings() for entries in lookup.values() for ids, _ in entries)


def _overlap(word: list[int], other: list[int]) -> bool:
    """Whether `other` can stand in a text so that it has some of the word's tokens."""
    if set(word).isdisjoint(other):
        return False
    for shift in range(1 - len(other), len(word)):
        first = max(shift, 0)
        part = other[max(-shift, 0) :][: len(word) - first]
        if part and word[first : first + len(part)] == part:
            return True
    return False


def unreadable(loaded: Loaded) -> str | None:
    """A sentence where the loaded model has no place for learned words at all."""
    if not learned_vectors(loaded.residual) or not _reads_more():
        return None
    family = HOST.family(HOST.model())
    return f"The embedding of {loaded.name} is for CLIP, and the loaded model, {family}, reads more than that."


class LentWords(Lent):
    """The words of one job. problem: told a sentence of a word that the model cannot read, and whose it is."""

    def __init__(self, problem: Callable[[str, Loaded], None]):
        super().__init__()
        self.problem = problem
        self.known: dict[str, tuple[Loaded, str]] = {}
        """Word -> whose it is, and in whose place it stands."""
        self._model = None
        self._entries: list[tuple] = []
        """As they stand in each of `_lookups`."""
        self._lookups: list[dict[int, list]] = []

    def renew(self) -> None:
        """The WebUI may have changed the model, or read the user's embeddings again, which forgets ours."""
        lookups, model = HOST.embeddings(), HOST.model()
        if not self._depth or (
            model is self._model
            and [entry[1].name for entry in self._entries] == list(self.known)
            and all(
                any(entry is other for other in lookup.get(entry[0][0], ()))
                for lookup in lookups
                for entry in self._entries
            )
        ):
            return
        self._take_back()
        self._model, self._lookups = model, lookups
        for word, (loaded, identifier) in self.known.items():
            ids = HOST.tokens(HOST.text_encoder(model), word)
            entry = (ids, self._embedding(word, loaded, identifier, model))
            for lookup in lookups:
                # the WebUI takes the first that matches, and sorts the longest first
                lookup[ids[0]] = sorted([entry, *lookup.get(ids[0], ())], key=lambda other: -len(other[0]))
            self._entries.append(entry)

    def _take_back(self) -> None:
        while self._entries:
            entry = self._entries.pop()
            first = entry[0][0]
            for lookup in self._lookups:
                others = [other for other in lookup.get(first, ()) if other is not entry]
                if others:
                    lookup[first] = others
                else:
                    lookup.pop(first, None)
        self._model = None

    def _embedding(self, word: str, loaded: Loaded, identifier: str, model):
        """The learned vectors; where they are not for this model, its own of the identifier."""
        vectors = HOST.token_vectors(model, identifier, LONGEST)
        if is_own(word):
            return HOST.embedding(word, vectors)
        learned = learned_vectors(loaded.residual)
        if misfit(loaded.residual, loaded.name, model):
            return HOST.embedding(word, vectors)  # told where it is attached, for all of the file
        try:
            check_widths(learned, {encoder: own.shape[-1] for encoder, own in vectors.items()}, loaded.name)
        except PersresError as error:
            self.problem(str(error), loaded)
            return HOST.embedding(word, vectors)
        return HOST.embedding(word, {encoder: HOST.placed(each) for encoder, each in learned.items()})

    def named(self, text: str) -> str:
        """A text for the user, with the concepts' names where the words stand."""
        for word, (loaded, _) in self.known.items():
            text = text.replace(word, loaded.name)
        return text
