"""Rows of the macro class: prior preservation with pictures that are given or that the model draws."""

import pytest
import torch
from rounding import NETWORK, assert_near
from trainer_bench import steps, weights

from lib_persres.errors import PersresError
from lib_persres.training import prior
from lib_persres.training.loop import train
from lib_persres.training.recipe import Recipe, Stage
from lib_persres.training.trainer import Trainer

STAGE = Stage(rank="2", steps=3, batch=2, learning_rate=1e-2, prior=2, prior_weight=0.5, keep=1, keep_weight=0.1)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(prior, "STEPS", 2)


def make(sd, photos, stage=STAGE, template="a photo of a {identifier} {macro_class}", **options):
    recipe = Recipe("test", "a test's", (stage,), crops=1, class_images=3, template=template)
    return Trainer(sd, photos, "rex", "dog", recipe, resolution=16, seed=5, identifier="phol", **options)


def test_rows_of_the_class_have_its_prompt_its_pictures_and_the_noise_as_target(sd, photos, objectives):
    trainer = make(sd, photos, class_photos=photos[:1])
    steps(trainer, 1)
    ((z_t, t, context, target, weight),) = objectives
    prompt, empty, cls = sd.encode_prompts(["a photo of a phol dog", "", "a photo of a dog"])[0].context
    assert torch.equal(context, torch.stack([prompt, prompt, cls, cls, empty]))
    assert weight.tolist() == pytest.approx([0.5, 0.5, 0.25, 0.25, 0.1])
    assert_near(target[4:], sd.unet(z_t[4:], t[4:], context[4:]), NETWORK)
    # what is left of a class row without its noise is the class photo's latent
    alphas = sd.alphas_cumprod[t].view(-1, 1, 1, 1)
    z = (z_t - (1 - alphas).sqrt() * target) / alphas.sqrt()
    mean, std = trainer._of_class.mean, trainer._of_class.std
    assert len(mean) == 1  # its centre alone: no crops of the class
    assert ((z[2:4] - mean).abs() < 6 * std + 1e-3).all()
    expected = ((sd.unet(z_t, t, context) - target) ** 2).mean((1, 2, 3)) @ weight
    assert trainer.losses[0] == pytest.approx(expected.item(), rel=2 * NETWORK)


def test_without_class_photos_the_model_draws_its_own_and_says_so(sd, photos):
    trainer = make(sd, photos)
    steps(trainer, 1)
    assert trainer._of_class.mean.shape == (3, *trainer._photos.mean.shape[1:])
    assert trainer._of_class.mean.std() > 0.1 and not trainer._of_class.std.any()
    assert any("drew 3 pictures of its own dog" in note for note in trainer.notes)
    given = make(sd, photos, class_photos=photos)
    steps(given, 1)
    assert given.notes == []


def test_a_resumed_training_draws_none_again(sd, photos, tmp_path, monkeypatch):
    whole = make(sd, photos)
    losses = steps(whole, 3)
    first = make(sd, photos)
    steps(first, 1)
    first.save_state(tmp_path / "state")
    again = make(sd, photos)
    again.load_state(tmp_path / "state")
    monkeypatch.setattr(prior, "sample", None)
    assert steps(again, 2) == losses[1:]
    assert torch.equal(weights(again), weights(whole))


def test_drawing_tells_how_far_it_is_and_what_ends_it_costs_no_whole_picture(sd, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(prior, "BATCH", 2)
    whole = make(sd, photos)
    losses = steps(whole, 3)
    told = []

    class Enough(Exception):
        pass

    def progress(drawn, count):
        told.append((drawn, count))
        if len(told) == 3:
            raise Enough

    first = make(sd, photos)
    assert first.to_draw == 3
    with pytest.raises(PersresError, match="within its own"):
        first.draw_class()
    with first, pytest.raises(Enough):
        first.draw_class(progress)
    assert told == [(0, 3), (0, 3), (2, 3)] and first.to_draw == 1 and first.done == 0
    first.save_state(tmp_path / "state")
    again = make(sd, photos)
    again.load_state(tmp_path / "state")
    assert again.to_draw == 1
    told.clear()
    with again:
        again.draw_class(lambda *numbers: told.append(numbers))
        assert told == [(2, 3), (2, 3), (3, 3)] and again.to_draw == 0
        again.draw_class(None)  # there is nothing to do
    assert steps(again, 3) == losses and torch.equal(weights(again), weights(whole))


def test_an_end_with_the_last_picture_costs_none_and_the_steps_go_on(sd, photos, monkeypatch):
    whole = make(sd, photos)
    losses = steps(whole, 3)

    class Enough(Exception):
        pass

    def progress(drawn, count):
        if drawn == count:
            raise Enough

    trainer = make(sd, photos)
    with trainer, pytest.raises(Enough):
        trainer.draw_class(progress)
    assert trainer.to_draw == 0
    monkeypatch.setattr(prior, "sample", None)
    assert steps(trainer, 3) == losses


def test_the_loop_tells_of_the_drawing(sd, photos):
    told = []
    recipe = Recipe("test", "a test's", (STAGE,), crops=1, class_images=3)
    train(sd, photos, "rex", "dog", recipe, resolution=16, drawing=lambda *numbers: told.append(numbers))
    assert told == [(0, 3), (0, 3), (3, 3)]


def test_a_template_without_the_class_cannot_have_them(sd, photos):
    with pytest.raises(PersresError, match="leaves the class out"):
        make(sd, photos, template="a photo of a {identifier}")


def test_without_rows_of_the_class_none_are_drawn_and_no_third_text_is_encoded(sd, photos):
    trainer = make(sd, photos, Stage(rank="2", steps=1, batch=2))
    steps(trainer, 1)
    assert trainer._of_class is None and len(trainer._texts.contexts) == 2
