"""What the texts of a picture say wrongly, known before any model is: so it is told before one is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from ..emphasis import doubtful
from ..errors import PersresError
from ..metadata import Metadata
from ..misreadings import misreadings, stray_tag
from ..prompt import Substituted, Tag, substitute
from .emphasis import not_understood

LONG = "The prompt is longer than 75 tokens; what comes after them is not seen."
EMPTY = 'The prompt is empty, so the pictures show whatever the model likes: write what is wanted, as "a dog".'


def write(text: str, tags: Sequence[Tag], facts: Sequence[Metadata], what: str = "prompt") -> Substituted:
    """The text with the identifiers for V*; without concepts V* is a word like any other.

    facts: those of the tags' residuals. what: the sentences' name for the text. PersresError for a placeholder
    without a concept, of which a broken tag is the cause.
    """
    if not tags:
        return Substituted(text, [])
    try:
        return substitute(text, [f.identifier for f in facts], [f.macro_class for f in facts], [t.text for t in tags])
    except PersresError as error:
        raise PersresError(stray_tag(text, what) or error) from error


def sentences(text: str, tags: Sequence[Tag], facts: Sequence[Metadata], what: str = "prompt") -> list[str]:
    """What there is to say of a text from which the tags were taken; PersresError for one that cannot be drawn."""
    write(text, tags, facts, what)
    if what == "prompt" and not tags and not text.strip():
        return [EMPTY]
    return [*misreadings(text, bool(tags), what), *not_understood(text, what), *doubtful(text, what)]
