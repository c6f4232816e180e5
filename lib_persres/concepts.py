"""What each concept does in a picture: how strong, whether LAG confines it, by which tokens, and what a user is told.

Decided here alone, for the WebUI, the command line, previews, training and evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .concept_tokens import ConceptTokens
from .errors import PersresError
from .lag_choice import ALONE, PLACED, decided, lag_choice
from .metadata import Metadata
from .prompt import Tag
from .targets import EVERY, PLACELESS, parts_of

UNCONDITIONAL = ("mirror", "base")
"""What an unconditional row does: what its image's do, so that M ≡ 1 is plain sampling; or what the base model does."""


def check_unconditional(value: str) -> None:
    if value not in UNCONDITIONAL:
        raise PersresError(f"Unconditional rows can be {' or '.join(UNCONDITIONAL)}, not {value!r}.")


@dataclass(frozen=True)
class Use:
    """What a concept does in a picture now.

    strength: s_k; 0 leaves the picture to the base model. gated: whether LAG confines it. indices: for each part of the
    prompt (AND) the concept's tokens C in its context. sentences: what the user is told of it. decided: what LAG auto
    made of it, and why; "" where it was not asked. reads: whether its keys and values act. waits:
    whether LAG is to confine it later, so that a mask looks at it before.
    """

    strength: float
    gated: bool
    indices: tuple[tuple[int, ...], ...] = ()
    sentences: tuple[str, ...] = ()
    decided: str = ""
    reads: bool = True
    waits: bool = False


def decide(
    tag: Tag,
    facts: Metadata,
    texts: Sequence[ConceptTokens],
    *,
    lag: bool | str,
    strength: float | None = None,
    done: float = 0.0,
    now: Sequence[ConceptTokens] | None = None,
    placeholder: str = "V*",
    lent: str = "",
    early: bool = True,
    several: bool = False,
    word: str = "",
) -> Use:
    """The use of a concept; its sentences are the same at every time.

    facts: its residual's. texts: where it is in each text that the picture's rows ever have, and now: in those that
    they have now, one for each part of the prompt; None: the same. lag: LAG where the tag does not say, see
    `lag_choice`. strength: s_k in this pass; None: the tag's. done: the part of the sampling that lies behind, 0 to 1.
    placeholder: how the prompt writes it. lent: see `lag_choice.lent`. early: whether LAG's mask is, see
    `mask.Mask`. several: whether other concepts act in the picture. word: the
    prompt's words for a file that has none of its own.
    """
    strength = tag.strength if strength is None else strength
    indices = tuple(found.indices for found in (texts if now is None else now))
    if strength == 0:
        return Use(0.0, False, indices)
    named = any(found.indices for found in texts)
    asked = any(found.identifier_found for found in texts)
    choice = lag_choice(lag if tag.lag is None else tag.lag)
    lag, why = decided(choice, lent)
    sentences = []
    if choice == "auto" and lent:
        sentences.append(
            f'"{lent}" lends the look of {tag.text}, so LAG auto leaves it everywhere; lag=on confines it.'
        )
    if lag and (unconfined := cannot_confine(tag.text, facts, early)):
        sentences.append(unconfined)
        lag = False
    # a text without the concept is a problem only where no other text of the prompt has it
    doubts = [doubt(found, facts, tag.text, placeholder, word) for found in texts if found.indices or not named]
    if lag and any(doubts):
        sentences.append(next(filter(None, doubts)))
    elif facts.identifier and not asked and not word:
        sentences.append(f"{tag.text} acts, but its {placeholder} is not in the prompt: nothing asks for the concept.")
    begins = ALONE if several else PLACED
    if lag and named and early and tag.end <= begins:
        what = "several concepts begin" if several else "a concept begins"
        sentences.append(
            f"{tag.text} does nothing: under LAG {what} at {begins:g} of the sampling, and it ends at {tag.end:g}."
        )
    # under LAG a concept that nothing in the prompt asks for has no place in the picture
    absent = lag and bool(facts.identifier) and not asked
    # adaptive samplers do more evaluations than they said
    on = tag.start <= done and (done < tag.end or tag.end == 1) and not absent
    waits = early and lag and named and done < tag.start
    return Use(strength if on else 0.0, lag and named, indices, tuple(sentences), why, tag.reads is not False, waits)


def wants_lag(tag: Tag, default: bool | str) -> bool:
    """Whether LAG may confine a concept."""
    return lag_choice(default if tag.lag is None else tag.lag) != "off"


def cannot_confine(name: str, facts: Metadata, early: bool = True) -> str | None:
    """A sentence where LAG can confine nothing of a residual; None where it can."""
    parts = parts_of(facts.targets)
    if "proj_out" in parts or (early and not set(parts) <= PLACELESS):
        return None
    what = " and ".join(parts) + ", not proj_out"
    if EVERY in parts:  # proj_out, too, but that is little of it
        what = "the whole UNet"
    return f"LAG cannot confine {name}, which changes {what}: it acts everywhere."


def doubt(found: ConceptTokens, facts: Metadata, name: str, placeholder: str = "V*", word: str = "") -> str | None:
    """A sentence where LAG does not see a concept as it should be seen; None where it does. name: its tag, or "".
    word: see `decide`."""
    if not facts.identifier:
        return (
            f"The file of {name or placeholder} names no identifier, so LAG cannot see where it is and it acts "
            "everywhere; write its word in the tag, as word=dog."
        )
    if word and not found.identifier_found:
        words = " and ".join(f'"{each}"' for each in word.splitlines())
        return f"The prompt has no {words}, where LAG looks for {name}, so it is left out; give a word that it has."
    noun = facts.macro_class
    name = f"{placeholder} of {name}" if name else placeholder
    advice = f'write "{placeholder} {noun}"' if noun else f'write "{placeholder}" and its class'
    if not found.identifier_found:
        return f"{name} is not in the prompt, so LAG leaves the residual out; {advice}."
    if found.shared:
        return (
            f'{name} is the same word before the same class, "{noun}", as another concept, so LAG cannot tell the two '
            "apart and both act everywhere; train one of them with another identifier."
        )
    if noun and not found.class_found:
        return f'{name} is not followed by "{noun}", so LAG sees only the identifier; {advice}.'
    return None
