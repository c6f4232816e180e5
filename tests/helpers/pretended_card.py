"""A device that computes nothing, in the place of a card: what would wait for one is seen, or an error."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

CARD = torch.device("meta")
"""In place of CUDA: it computes nothing, but no other device's numbers meet its own, and to read one is an error."""


class Outside(TorchDispatchMode):
    """The operations that make or take tensors which are not on the card: a graph can hold none of them."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        tensors = [t for t in (*args, out) if isinstance(t, torch.Tensor)]
        if any(tensor.device != CARD for tensor in tensors):
            self.seen.append(str(function))
        return out
