"""Calls of a small UNet with residuals at work on it, for the tests of the branches."""

import longhand
import torch
from longhand import random_residual, run

from lib_persres.branch import Branches
from lib_persres.concepts import Use
from lib_persres.masks import PerBlock
from lib_persres.plan import Plans, guidance_rows

KINDS = {
    "conv": {"linear": False},
    "linear": {"linear": True},
    "conv, two layers": {"linear": False, "depth": 2},
    "linear, two layers": {"linear": True, "depth": 2},
}
# two images: the tokens of three concepts in each one's prompt; the maps of the last two share a token
TOKENS = [[(2, 3), (5,), (5, 9)], [(1, 2, 3), (8, 9), (9, 4)]]
STRENGTHS = [[1.0, 0.7, -0.4], [0.6, 1.0, 1.3]]
RANKS = (2, 5, 1)


def residuals_for(unet, count):
    return [random_residual(unet, rank, seed) for seed, rank in enumerate(RANKS[:count])]


def lag_uses(count, gated=True, strengths=STRENGTHS):
    """gated: of each concept, or of all."""
    gated = [gated] * count if isinstance(gated, bool) else gated
    return [
        [Use(strength, here, (tokens,)) for strength, here, tokens in zip(row, gated, found)]
        for row, found in zip(strengths, TOKENS)
    ]


def lag_plan(count, unconditional="mirror", guided=True, tokens=longhand.TOKENS, **uses):
    plans = Plans(lag_uses(count, **uses), unconditional)
    return plans.plan(guidance_rows(2, guided), tokens)


def strong_plan(strengths):
    """Plain sampling with each row's strengths."""
    uses = [[Use(strength, False) for strength in row] for row in strengths]
    return Plans(uses).plan(guidance_rows(len(uses), guided=False), longhand.TOKENS)


def plain_plan(rows, strength=1.0, count=1):
    return strong_plan([[strength] * count] * rows)


def ones():
    return PerBlock(torch.ones_like)


def zeros():
    return PerBlock(torch.zeros_like)


def output(unet, arguments, residuals=(), plan=None, mask=None):
    with torch.no_grad():
        if not residuals:
            return run(unet, *arguments)
        with Branches(unet, residuals, mask) as branches:
            branches.plan = plan
            return run(unet, *arguments)


def breaking(module):
    """The module raises in mid-forward, and the error is expected."""

    class Context:
        def __enter__(self):
            self.handle = module.register_forward_pre_hook(self.fail)

        def fail(self, *_):
            raise ArithmeticError("in mid-forward")

        def __exit__(self, kind, *_):
            self.handle.remove()
            assert kind is ArithmeticError, "it did not raise"
            return True

    return Context()
