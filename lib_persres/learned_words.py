"""Learned words: the vectors that a residual brings for its identifier, in place of the model's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from .errors import PersresError
from .prompt import Substituted
from .residual import Residual


def learned_vectors(residual: Residual) -> torch.Tensor | None:
    """(n, d), what takes the identifier's place in a prompt; None where the file has nothing learned for it."""
    found = residual.embeddings.get(residual.metadata.identifier)
    return None if found is None else found.reshape(-1, found.shape[-1])


def check_width(vectors: torch.Tensor, width: int, where: str) -> None:
    """Raise PersresError unless the vectors are as wide as the text encoder's own."""
    if vectors.shape[-1] != width:
        raise PersresError(
            f"The embedding of {where} has {vectors.shape[-1]} numbers where this model's text encoder has {width}: "
            "load the model that it was made on, or one derived from it."
        )


def pieces(written: Substituted, learned: Sequence[bool]) -> Iterator[str | int]:
    """A prompt in its order: text, and for each use of a concept whose word is learned the concept's number."""
    done = 0
    for use in written.uses:
        if learned[use.concept]:
            yield written.text[done : use.start]
            yield use.concept
            done = use.end
    yield written.text[done:]


@contextlib.contextmanager
def vectors_for(table: nn.Embedding, vectors: Mapping[int, torch.Tensor]) -> Iterator[None]:
    """A text encoder's table of tokens gives these vectors (d,) for these ids; its weights are not touched. A negative
    id is nobody else's."""
    asked: list[torch.Tensor] = []

    def before(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        asked.append(args[0])
        return (args[0].clamp(min=0), *args[1:])

    def after(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        ids = asked.pop()
        for number, vector in vectors.items():
            output = torch.where((ids == number)[..., None], vector.to(output), output)
        return output

    handles = [table.register_forward_pre_hook(before), table.register_forward_hook(after)] if vectors else []
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
