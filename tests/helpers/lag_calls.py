"""LAG at work on a block whose maps are given, for the tests of gates: no UNet computes them."""

import torch
from torch import nn

from lib_persres.lag import Lag
from lib_persres.masks import Mask, above_median
from lib_persres.unet import Block


class Given(Mask):
    """Masks of maps that are known beforehand: maps, row -> (K, hw); zero for concepts that the row's text lacks."""

    def __init__(self, maps, binarize=above_median):
        self.maps, self.binarize = maps, binarize
        self.views = []

    def asks(self, block, gated):
        return ()

    def gate(self, view):
        self.views.append(view)
        named = torch.tensor(view.active)[..., None]
        return self.binarize(torch.stack([self.maps[row] for row in view.rows]) * named)


def block(name="a"):
    return Block(name, nn.Identity(), nn.Identity(), ())


class Bench:
    """size: (h, w) of the blocks."""

    def __init__(self, mask, listener=None, size=(1, 4), names=("a", "b")):
        self.size = size
        self.blocks = [block(name) for name in names]
        self.lag = Lag(self.blocks, names, mask, listener)
        self.lag.attach()

    def gates(self, plan, at=0):
        """(b, K, hw or 1) of one call, in the at-th block."""
        self.lag.plan = plan
        self.blocks[at].module(torch.zeros(len(plan.strength), 1, *self.size))
        return self.lag.gates(self.blocks[at], plan)
