"""What a concept may be called: its name, its macro class, and an identifier that is still free."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from ..errors import PersresError
from ..prompt import choose_identifier


def check_name(name: str) -> None:
    """Raise PersresError for a name that a file, a prompt's tag or a page would misread."""
    if len(name) > 100 or not re.fullmatch(r"\w([\w .-]*\w)?", name):
        raise PersresError(
            f"The name {name[:40]!r} cannot be used: take up to 100 letters and digits, "
            "with spaces, dots, - or _ in between."
        )


def check_class(macro_class: str) -> str:
    """The class without white space around it; PersresError for what is no word of a prompt."""
    macro_class = macro_class.strip()
    if not re.fullmatch(r"\w[\w '-]*", macro_class):
        raise PersresError(
            f'The class {macro_class[:40]!r} cannot be used: give the plain noun for the concept, as "dog".'
        )
    return macro_class


def free_identifier(encode: Callable[[str], list[int]], macro_class: str, residuals: Iterable[Path]) -> str:
    """An identifier that none of these files has for this class: LAG tells concepts apart by it."""
    from ..residual import Residual  # brings torch, which `--help` does not wait for

    taken = set()
    for path in residuals:
        try:
            metadata = Residual.read_metadata(path)
        except PersresError:
            continue
        if metadata.macro_class.lower() == macro_class.lower():
            taken.add(metadata.identifier)
    try:
        return choose_identifier(encode, taken)
    except PersresError:
        return choose_identifier(encode)  # all are taken: two concepts share one, and LAG will say so
