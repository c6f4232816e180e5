"""How much of a pipeline's sampling lies behind."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from pipelines import PROMPT, STEPS, draw, ours, with_scheduler
from rounding import PICTURE, assert_near

from lib_persres.errors import PersresError
from lib_persres.standalone import pipeline as persres

# -- steps


def behind(pipe, call):
    """The part of the sampling that lies behind, at each call of the UNet."""
    seen = []
    (acting,) = {hook.__self__ for hook in pipe.unet._forward_pre_hooks.values()}
    begin = acting.branches.begin
    acting.branches.begin = lambda step, done: (seen.append(done), begin(step, done))
    call()
    return seen


@pytest.mark.parametrize("kind", [DDIMScheduler, HeunDiscreteScheduler, EulerDiscreteScheduler, PNDMScheduler])
def test_the_part_that_lies_behind_grows_to_1_under_every_scheduler(pipe, sd, rex, kind):
    own = with_scheduler(kind, pipe)
    with persres.on(own, {"rex": rex}, lag=True):
        seen = behind(own, lambda: draw(own, sd, PROMPT))
    count = len(own.scheduler.timesteps)
    assert count >= STEPS and seen == [index / count for index in range(count)]


class Old(StableDiffusionImg2ImgPipeline):
    """One that does not say how many steps it takes."""

    num_timesteps = None


@pytest.mark.parametrize(
    ("of", "kind"),
    [
        (StableDiffusionImg2ImgPipeline, DDIMScheduler),
        (StableDiffusionImg2ImgPipeline, HeunDiscreteScheduler),
        (StableDiffusionImg2ImgPipeline, PNDMScheduler),
        (Old, DDIMScheduler),
        (Old, EulerDiscreteScheduler),
    ],
)
def test_a_picture_made_of_a_picture_begins_with_nothing_behind(pipe, rex, of, kind):
    own = with_scheduler(kind, pipe, of)
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with persres.on(own, {"rex": rex}, lag=True):
        seen = behind(own, lambda: own(PROMPT, picture, 0.5, num_inference_steps=8, output_type="latent"))
    assert len(seen) >= 4 and seen == [index / len(seen) for index in range(len(seen))]


class Twice(StableDiffusionPipeline):
    """Its UNet is called twice a step, as where a pipeline draws parts of a picture one by one."""

    def __call__(self, *args, **kwargs):
        again = []

        def after(module, args, kwargs, output):
            if not again:
                again.append(True)
                module(*args, **kwargs)
                again.clear()

        handle = self.unet.register_forward_hook(after, with_kwargs=True)
        try:
            return super().__call__(*args, **kwargs)
        finally:
            handle.remove()


@pytest.mark.parametrize("kind", [DDIMScheduler, HeunDiscreteScheduler])
def test_several_calls_of_the_unet_in_a_step_are_one_step(pipe, sd, rex, kind):
    own = with_scheduler(kind, pipe, Twice)
    with persres.on(own, {"rex": rex}, lag=True):
        seen = behind(own, lambda: draw(own, sd, PROMPT))
    if kind is DDIMScheduler:
        assert seen == [index // 2 / STEPS for index in range(2 * STEPS)]
    else:  # which has each time but the first twice, so one time is two of four calls
        count = len(own.scheduler.timesteps)
        assert seen == sorted(seen) and set(seen) == {index / count for index in range(count)}


class Elsewhere(StableDiffusionPipeline):
    """Its UNet is called at times of its own."""

    def __call__(self, *args, **kwargs):
        handle = self.unet.register_forward_pre_hook(lambda module, args: (args[0], args[1] + 100), prepend=True)
        try:
            return super().__call__(*args, **kwargs)
        finally:
            handle.remove()


def test_times_that_the_scheduler_does_not_have_are_refused(pipe, sd, rex):
    own = with_scheduler(DDIMScheduler, pipe, Elsewhere)
    with persres.on(own, {"rex": rex}), pytest.raises(PersresError, match="at the time .*, which its scheduler does"):
        draw(own, sd, PROMPT)


@pytest.mark.parametrize("part", ["start=0.5", "end=0.5"])
def test_a_tag_acts_in_its_part_of_the_sampling(pipe, sd, rex, part):
    prompt = f"{PROMPT} <persres:rex:1:{part}>"
    with persres.on(pipe, {"rex": rex}):
        found = draw(pipe, sd, prompt)
    assert_near(found, ours(sd, prompt, {"rex": rex}), PICTURE)
