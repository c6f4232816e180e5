import pytest
import torch
from rounding import PRODUCT, assert_near

from lib_persres.parameterization import KINDS, noise_and_image, target, with_zero_terminal_snr


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("a", [0.999, 0.5, 0.01])
def test_the_target_says_the_noise_and_the_image_that_made_it(kind, a):
    x0, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    x = a**0.5 * x0 + (1 - a) ** 0.5 * noise
    eps, image = noise_and_image(kind, target(kind, x0, noise, torch.tensor(a)), x, a)
    assert_near(eps, noise, 16 * PRODUCT)
    assert_near(image, x0, 16 * PRODUCT / a**0.5)


def test_without_any_signal_v_is_the_image_and_its_sign():
    x0, noise = torch.randn(2, 1, 4, 8, 8)
    assert torch.equal(target("v", x0, noise, torch.tensor(0.0)), -x0)
    assert torch.equal(noise_and_image("v", -x0, noise, 0.0)[1], x0)


def test_zero_terminal_snr_is_a_schedule_that_ends_in_noise_alone():
    alphas = torch.linspace(0.9991, 0.0047, 1000)
    rescaled = with_zero_terminal_snr(alphas)
    assert rescaled[-1] == 0 and (rescaled.diff() < 0).all()
    assert_near(rescaled[0], alphas[0], PRODUCT)
