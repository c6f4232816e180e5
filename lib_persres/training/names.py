"""An identifier for a concept that is still free."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ..errors import PersresError
from ..identifiers import choose_identifier


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
