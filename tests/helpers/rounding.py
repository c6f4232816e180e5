"""How far two ways to the same number may be apart, on any processor.

Kernels add up in an order of their own, which differs between processors, numbers of threads and shapes, so a bound
here is a stated multiple of rounding, and never what one machine happened to give. Two results are equal to the bit
only where the same kernels see the same shapes.
"""

import torch

EPS = torch.finfo(torch.float32).eps


def rounding(terms: int, layers: int = 1) -> float:
    """A bound on max|difference| / max|result| in fp32: eps·√terms for a sum of `terms` products, whose roundings are
    as good as random, times the `layers` that pass it on and add their own."""
    return EPS * terms**0.5 * layers


PRODUCT = rounding(terms=128, layers=8)
"""1e-5: a projection of up to 128 inputs, or some steps of elementwise arithmetic after it."""

NETWORK = rounding(terms=1152, layers=30)
"""1.2e-4: the tests' small networks: 30 layers one after the other, the widest a 3×3 convolution of 128 channels."""

PICTURE = 8 * NETWORK
"""1e-3: what guidance, which multiplies a difference by 6, makes of it in two or three steps; a picture's largest value
is 1."""

LEARNED = 3e-2
"""Of the norm of what some steps of Adam changed: its steps are of one size, whatever the gradient's, so a weight whose
gradient is rounding alone goes its own way. A wrong gradient makes it about 1."""


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """max|difference| / max|expected|"""
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def assert_near(actual: torch.Tensor, expected: torch.Tensor, bound: float) -> None:
    """Of one shape and type, and within `bound` of the largest value."""
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    apart = relative(actual.detach(), expected.detach())
    assert apart <= bound, f"{apart:.3g} of the largest value apart, more than {bound:.3g}"


def assert_learned_alike(one: torch.Tensor, other: torch.Tensor, start: torch.Tensor) -> None:
    """Two trainings' weights, from the same start."""
    apart = ((one - other).norm() / (other - start).norm()).item()
    assert apart <= LEARNED, f"{apart:.3g} of what was learned apart, more than {LEARNED:.3g}"
