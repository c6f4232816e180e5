"""A step's forward and backward pass as one CUDA graph: the card does not wait for Python between its kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..errors import first_line

TOLERANCE = 1e-2
WARM_UP = 2


class Graph:
    """`compute(*inputs)`, which adds to the gradients of `weights` and returns a scalar, recorded once and replayed.

    Calling it sets the gradients anew. Recording costs WARM_UP passes. Raises what CUDA raises where it cannot record.
    """

    def __init__(
        self, compute: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]
    ):
        self._inputs = [tensor.clone() for tensor in inputs]
        # ldm makes the frequencies of its time embedding on the CPU, from where nothing can come into a graph
        there = torch.device(inputs[0].device)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), there:
            for _ in range(WARM_UP):
                _clear(weights)
                compute(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        _clear(weights)  # so that the recorded pass allocates them where its replays write
        self._graph = torch.cuda.CUDAGraph()
        # other threads of a host may use the card meanwhile
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"), there:
            self._loss = compute(*self._inputs)

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        for own, given in zip(self._inputs, inputs):
            own.copy_(given)
        self._graph.replay()
        return self._loss


def recorded(
    compute: Callable[..., torch.Tensor],
    inputs: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    notes: list[str],
) -> Graph | None:
    """The graph, if its first replay gives what `compute` gives; else None, and a note for the user."""

    def gradient() -> torch.Tensor:
        return torch.cat([weight.grad.flatten() for weight in weights])

    _clear(weights)
    compute(*inputs)
    expected = gradient()
    try:
        graph = Graph(compute, inputs, weights)
        graph(*inputs)
        error = ((gradient() - expected).norm() / expected.norm()).item()
        reason = None if error <= TOLERANCE else f"its gradients are off by {error:.1%}"
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as failure:  # what CUDA raises for whatever cannot be recorded
        reason = first_line(failure)
    if reason is None:
        return graph
    notes.append(f"The steps run without a CUDA graph, and so slower ({reason}).")
    return None


def _clear(weights: Sequence[torch.Tensor]) -> None:
    for weight in weights:
        weight.grad = None
