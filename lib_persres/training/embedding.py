"""The identifier's vector in the text encoder's table of tokens, as something that learns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from ..errors import PersresError
from .host import Host

SCALE_OF_HALVES = 4096.0
"""Gradients of fp16 text encoders are scaled by it on their way, since they are tiny."""


class Embedding:
    """vector: (d,), fp32, the identifier's own or the macro class's first token's at the beginning.

    Within `written` the text encoder reads it wherever the identifier stands; its table is never changed.
    """

    def __init__(self, host: Host, identifier: str, macro_class: str, start: str):
        ids = host.encode_text(identifier)
        if len(ids) != 1:
            raise PersresError(f"A learned embedding needs an identifier of one token, which {identifier!r} is not.")
        self._host, self._token = host, ids[0]
        source = self._token if start == "identifier" else host.encode_text(macro_class)[0]
        row = host.token_embedding(torch.tensor([source], device=host.token_embedding.weight.device))
        self.vector = nn.Parameter(row[0].detach().float().to(host.device))

    @contextlib.contextmanager
    def written(self) -> Iterator[None]:
        def write(module, args, output):
            here = (args[0] == self._token).to(output.device)
            return torch.where(here[..., None], self.vector.to(output.device, output.dtype), output)

        handle = self._host.token_embedding.register_forward_hook(write)
        try:
            yield
        finally:
            handle.remove()

    def encode(self, prompts: list[str], *, learning: bool = False) -> torch.Tensor:
        """The prompts' contexts (b, n, d); learning: with a graph that leads to the vector."""
        with self.written():
            return self._host.encode_prompts(prompts, learning=learning)[0]

    def backward(self, contexts: torch.Tensor, gradient: torch.Tensor) -> None:
        """Adds to the vector's gradient; nothing of the text encoder gets one."""
        scale = SCALE_OF_HALVES if contexts.dtype == torch.float16 else 1.0
        before = self.vector.grad
        self.vector.grad = None
        torch.autograd.backward([contexts], [(gradient * scale).to(contexts.dtype)], inputs=[self.vector])
        self.vector.grad /= scale
        if before is not None:
            self.vector.grad += before
