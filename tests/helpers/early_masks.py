"""Masks that are there before a step's first block, given by hand, and what modules give under them."""

import longhand
import torch

from lib_persres.branch import Branches
from lib_persres.mask import Mask

SIZE = (6, 10)


class Fixed(Mask):
    """The left `part` of every picture; what is asked of attentions is nothing."""

    early = True

    def __init__(self, part):
        self.part, self.sizes = part, set()

    def asks(self, block, gated):
        return ()

    def gate(self, view):
        self.sizes.add(view.size)
        columns = torch.arange(view.size[1]) < self.part * view.size[1]
        return columns.float().expand(*view.size).reshape(-1).expand(view.shape).clone()


def seen(unet, arguments, paths, *more):
    """The outputs of modules in a call of the UNet with these branches."""
    found, modules = {}, dict(unet.named_modules())
    residuals, plan, mask = more
    with Branches(unet, residuals, mask) as branches:
        handles = [
            modules[path].register_forward_hook(lambda m, a, out, path=path: found.update({path: out.clone()}))
            for path in paths
        ]
        branches.begin(0, 0.0)
        branches.plan = plan
        try:
            longhand.run(unet, *arguments)
        finally:
            for handle in handles:
                handle.remove()
    return found
