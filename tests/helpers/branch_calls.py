"""Calls of a small UNet with residuals at work on it, for the tests of the branches."""

import longhand
import torch
from longhand import random_residual, run

from lib_persres.branch import Branches
from lib_persres.lag import Plan, guidance_plan

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


def indicator(tokens, count, n=longhand.TOKENS):
    out = torch.zeros(len(tokens), count, n)
    for image, concepts in enumerate(tokens):
        for index in range(count):
            out[image, index, list(concepts[index])] = 1
    return out


def lag_plan(count, **options):
    strength = torch.tensor(STRENGTHS)[:, :count]
    gated = torch.ones(2, count, dtype=torch.bool)
    return guidance_plan(strength, gated, indicator(TOKENS, count), **options)


def plain_plan(rows, strength=1.0, count=1):
    return Plan(torch.full((rows, count), strength), torch.zeros(rows, count, dtype=torch.bool))


def output(unet, arguments, residuals=(), plan=None):
    with torch.no_grad():
        if not residuals:
            return run(unet, *arguments)
        with Branches(unet, residuals) as branches:
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
