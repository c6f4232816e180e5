"""The rare words that may stand for V*: which is free, and whether a model has it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from .errors import PersresError, readable
from .names import check_spelling
from .prompt import SPECIAL_IDS

# One BPE token each in CLIP's vocabulary, from its rare end, without a meaning of their own. "sks" comes last
# because it names a rifle, which Stable Diffusion draws.
IDENTIFIERS = (
    "olis", "phol", "ohwx", "hta", "utz", "yles", "ilis", "orum", "eper", "ylde", "tedu", "elee",
    "yte", "enei", "ofi", "plo", "oue", "aroo", "ynna", "gawx", "mswx", "sks",
)  # fmt: skip


def choose_identifier(encode: Callable[[str], list[int]], taken: Collection[str] = ()) -> str:
    """A rare identifier that is exactly one token and not `taken` (in any case of letters).

    `encode` gives a text's token ids; start, end and padding tokens among them do not count.
    """
    used = {word.lower() for word in taken}
    for candidate in IDENTIFIERS:
        if candidate not in used and len(_plain(encode(candidate))) == 1:
            return candidate
    raise PersresError(
        f"None of the {len(IDENTIFIERS)} known identifiers is free and one token of this model; "
        "type an identifier of your own, a rare short word."
    )


def check_identifier(identifier: str, encode: Callable[[str], list[int]]) -> list[int]:
    """The token ids of a usable identifier; PersresError for one that a prompt would misread."""
    check_spelling(identifier)
    ids = _plain(encode(identifier))
    if not ids:
        raise PersresError(
            f'The identifier "{readable(identifier, 40)}" has no tokens in this model; use letters and digits.'
        )
    return ids


def _plain(ids: Sequence[int]) -> list[int]:
    return [int(token) for token in ids if int(token) not in SPECIAL_IDS]
