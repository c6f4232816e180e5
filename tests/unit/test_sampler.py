from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("ldm")

from rounding import PICTURE, PRODUCT, assert_near, rounding
from standalone_models import tiny_unet

from lib_persres.conditioning import Conditioning
from lib_persres.errors import PersresError
from lib_persres.parameterization import with_zero_terminal_snr
from lib_persres.sampler import ddim_timesteps, noise_for, sample
from lib_persres.standalone.checkpoint import alphas_cumprod

ALPHAS = alphas_cumprod(0.00085, 0.012, 1000)


def model(unet, parameterization="eps", alphas=ALPHAS):
    device = torch.device("cpu")
    return SimpleNamespace(unet=unet, alphas_cumprod=alphas, device=device, parameterization=parameterization)


def contexts(count, seed=0):
    return Conditioning(torch.randn(count, 77, 32, generator=torch.Generator().manual_seed(seed)))


def all_alike(count, value):
    return Conditioning(torch.full((count, 77, 32), value))


def test_timesteps_are_ldms():
    assert ddim_timesteps(50) == list(range(1, 1000, 20))
    assert ddim_timesteps(1) == [1]
    assert max(ddim_timesteps(1000)) == 999
    for steps in (0, -1, 1001):
        with pytest.raises(PersresError):
            ddim_timesteps(steps)


def test_true_noise_leads_back_to_the_image():
    x0, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    alphas = ALPHAS
    start = alphas[981].sqrt() * x0 + (1 - alphas[981]).sqrt() * noise
    result = sample(model(lambda x, timesteps, context: noise), contexts(2), None, start, guidance=1)
    # ldm's last step ends at timestep 0, whose ᾱ is a little below 1.
    expected = alphas[0].sqrt() * x0 + (1 - alphas[0]).sqrt() * noise
    # the noise is as large, and 1/√ᾱ of it is taken away at the first step: 14
    assert_near(result, expected, rounding(terms=1, layers=14 * 50))
    assert (result - x0).abs().mean() < 0.03


def test_sampler_equals_ldms_update_step_by_step():
    unet, noise = tiny_unet(), noise_for([1], (4, 8, 8))
    cond, uncond = contexts(1, 1), contexts(1, 2)
    sd = model(unet)
    timesteps, alphas = ddim_timesteps(5), sd.alphas_cumprod
    previous = [alphas[0], *alphas[timesteps[:-1]]]
    x = noise
    for i in reversed(range(5)):
        t = torch.tensor([timesteps[i]])
        e_u, e_c = unet(x, timesteps=t, context=uncond.context), unet(x, timesteps=t, context=cond.context)
        e = e_u + 6.0 * (e_c - e_u)
        a, a_prev = alphas[timesteps[i]], previous[i]
        x = a_prev.sqrt() * (x - (1 - a).sqrt() * e) / a.sqrt() + (1 - a_prev).sqrt() * e
    result = sample(sd, cond, uncond, noise, steps=5)
    assert_near(result, x, PICTURE)


def velocity_of(unet, alphas):
    """A UNet of v that says what this one of ε does."""

    def predict(x, timesteps, context):
        a = alphas[timesteps].view(-1, 1, 1, 1)
        return (unet(x, timesteps=timesteps, context=context) - (1 - a).sqrt() * x) / a.sqrt()

    return predict


def test_a_model_of_v_draws_what_the_same_model_of_the_noise_does():
    unet, noise, cond, uncond = tiny_unet(), noise_for([1], (4, 8, 8)), contexts(1, 1), contexts(1, 2)
    drawn = sample(model(unet), cond, uncond, noise, steps=5)
    assert_near(sample(model(velocity_of(unet, ALPHAS), "v"), cond, uncond, noise, steps=5), drawn, PICTURE)


def test_with_zero_terminal_snr_the_first_step_takes_the_image_from_v_alone():
    alphas = with_zero_terminal_snr(ALPHAS)
    assert alphas[-1] == 0 and torch.allclose(alphas[0], ALPHAS[0])
    image = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    noise = noise_for([1], (4, 8, 8))

    def predict(x, timesteps, context):  # of the one picture that there is
        a = alphas[timesteps].view(-1, 1, 1, 1)
        return (a.sqrt() * x - image) / (1 - a).sqrt()

    drawn = sample(model(predict, "v", alphas), contexts(1), None, noise, steps=1000, guidance=1)
    assert (drawn - image).abs().mean() < 0.03


def test_vectors_go_with_their_rows_to_the_unet():
    seen = []

    def unet(x, timesteps, context, y):
        seen.append(y[:, 0].tolist())
        return torch.zeros_like(x)

    cond = Conditioning(contexts(2).context, torch.tensor([[1.0], [2.0]]))
    uncond = Conditioning(contexts(1).context, torch.tensor([[3.0]]))
    sample(model(unet), cond, uncond, noise_for([1, 2], (4, 8, 8)), steps=1)
    assert seen == [[1.0, 2.0, 3.0, 3.0]]


def test_rows_are_cond_first_in_one_call_and_cond_alone_without_guidance():
    calls = []

    def unet(x, timesteps, context):
        calls.append((x.shape[0], timesteps.tolist(), context[:, 0, 0].tolist()))
        return context[:, 0, 0].view(-1, 1, 1, 1).expand_as(x)

    cond, uncond = all_alike(2, 3.0), all_alike(1, 1.0)
    sd, noise = model(unet), torch.zeros(2, 4, 8, 8)
    guided = sample(sd, cond, uncond, noise, steps=1, guidance=2.5)
    assert calls == [(4, [1] * 4, [3.0, 3.0, 1.0, 1.0])]
    calls.clear()
    plain = sample(sd, all_alike(2, 1 + 2.5 * (3.0 - 1)), None, noise, steps=1, guidance=1)
    assert calls == [(2, [1] * 2, [6.0, 6.0])]
    assert_near(guided, plain, PRODUCT)


def test_batch_equals_its_singles():
    sd, seeds = model(tiny_unet()), [7, 8, 9]
    noise, cond, uncond = noise_for(seeds, (4, 8, 8)), contexts(3), contexts(1, 5)
    batch = sample(sd, cond, uncond, noise, steps=4, guidance=2.0)
    for i, seed in enumerate(seeds):
        single = sample(sd, cond[i : i + 1], uncond, noise_for([seed], (4, 8, 8)), steps=4, guidance=2.0)
        assert_near(batch[i : i + 1], single, PICTURE)


def test_hooks_see_every_step():
    steps, done = [], []
    sd = model(lambda x, timesteps, context: torch.zeros_like(x))
    sample(
        sd,
        contexts(1),
        None,
        torch.zeros(1, 4, 8, 8),
        steps=4,
        guidance=1,
        before_step=lambda index, t: steps.append((index, t)),
        progress=lambda i, n: done.append((i, n)),
    )
    assert steps == [(0, 751), (1, 501), (2, 251), (3, 1)]
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_eta_adds_each_images_own_noise():
    sd = model(lambda x, timesteps, context: torch.zeros_like(x))

    def run(*seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = torch.zeros(len(seeds), 4, 8, 8)
        return sample(sd, contexts(1), None, noise, steps=4, guidance=1, eta=1.0, generators=generators)

    batch = run(1, 2)
    assert_near(batch, torch.cat([run(1), run(2)]), PRODUCT)
    assert not torch.equal(batch[0], batch[1])


def test_contexts_that_do_not_fit_are_refused():
    sd, noise = model(None), torch.zeros(3, 4, 8, 8)
    with pytest.raises(PersresError, match="3 images"):
        sample(sd, contexts(2), contexts(1), noise)
    with pytest.raises(PersresError, match="unconditional"):
        sample(sd, contexts(3), None, noise)
    with pytest.raises(PersresError, match="length"):
        sample(sd, contexts(3), Conditioning(contexts(3).context[:, :70]), noise)
    with pytest.raises(PersresError, match="eta"):
        sample(sd, contexts(3), contexts(3), noise, eta=0.5)
