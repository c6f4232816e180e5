"""Learned words: the vectors that a residual brings for its identifier, in place of the model's own; and twins, whose
words are the same."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from .errors import PersresError
from .metadata import Metadata
from .prompt import Substituted
from .residual import ENCODERS, Residual, key_of


def learned_vectors(residual: Residual) -> dict[str, torch.Tensor]:
    """(n, d) for each text encoder, what takes the identifier's place in a prompt; nothing where the file has nothing
    learned for it."""
    word = residual.metadata.identifier
    found = {encoder: residual.embeddings.get(key_of(encoder, word)) for encoder in ENCODERS}
    return {encoder: each.reshape(-1, each.shape[-1]) for encoder, each in found.items() if each is not None}


def twins_of(concepts: Sequence[Metadata]) -> list[int]:
    """Those with an earlier one's identifier, in their order. Their tokens are told apart by their places in the
    prompt, if they have names of their own; by their classes alone, "V1* and V2* star" would be one thing."""
    said = [each.identifier.lower() for each in concepts]
    return [index for index, own in enumerate(said) if own and own in said[:index]]


def check_widths(vectors: Mapping[str, torch.Tensor], widths: Mapping[str, int], where: str) -> None:
    """Raise PersresError unless the vectors are for these text encoders, as wide as the encoders' own, and as many for
    each."""
    found = {encoder: each.shape[-1] for encoder, each in vectors.items()}
    if found != dict(widths):
        has, wanted = (
            " and ".join(f"{width}{encoder and f' ({encoder})'}" for encoder, width in each.items())
            for each in (found, widths)
        )
        raise PersresError(
            f"The embedding of {where} has {has} numbers where this model's text encoder has {wanted}: "
            "load the model that it was made on, or one derived from it."
        )
    counts = {encoder: len(each) for encoder, each in vectors.items()}
    if len(set(counts.values())) > 1:
        told = " and ".join(f"{count} for {encoder}" for encoder, count in counts.items())
        raise PersresError(f"The embedding of {where} has {told}, which must be as many: it was not made rightly.")


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


@contextlib.contextmanager
def word_of(tables: Mapping[str, nn.Embedding], token: int, vectors: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Each text encoder's table gives its own of these vectors (d,) for a token; both by the encoders' names."""
    with contextlib.ExitStack() as stack:
        for encoder, table in tables.items():
            stack.enter_context(vectors_for(table, {token: vectors[encoder]}))
        yield
