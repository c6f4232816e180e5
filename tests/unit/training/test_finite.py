"""What is not finite in a training is said with its likely reason: only what was learned blames the learning rate."""

import copy
import dataclasses

import pytest
import torch
from trainer_bench import make, steps, weights

from lib_persres.errors import PersresError
from lib_persres.training.scaler import Scaler


def broken(sd, part, place, value=float("nan")):
    """The host with one weight of a part that is not finite."""
    other = copy.deepcopy(getattr(sd, part))
    weights = dict(other.named_parameters())
    name = next(name for name in weights if place in name)
    weights[name].data.view(-1)[0] = value
    return dataclasses.replace(sd, **({"texts": {"": other}} if part == "text" else {part: other}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_with_broken_weights_is_named_before_the_first_step(sd, photos, value):
    host = broken(sd, "unet", "middle_block", value)
    with pytest.raises(PersresError, match="anything is learned: weights of the checkpoint .*middle_block.*damaged"):
        with make(host, photos) as trainer:
            trainer.step()


def test_an_autoencoder_that_is_broken_is_named(sd, photos):
    with pytest.raises(PersresError, match=r"not finite before anything is learned: the autoencoder \(VAE\)"):
        make(broken(sd, "vae", "encoder"), photos)


def test_a_text_encoder_that_is_broken_is_named(sd, photos):
    with pytest.raises(PersresError, match="encoding is not finite before anything is learned: the text encoder"):
        make(broken(sd, "text", "final_layer_norm"), photos)


def test_a_half_that_overflows_is_told_from_a_damaged_checkpoint(sd, photos):
    half = dataclasses.replace(sd, unet=copy.deepcopy(sd.unet).bfloat16(), dtype=torch.bfloat16)
    half.unet.out[-1].weight.data.fill_(3e38)  # finite, but no sum of them is
    with pytest.raises(PersresError, match="overflows in half precision; take float32"):
        make(half, photos).__enter__()


def test_a_loss_that_is_lost_after_steps_of_learning_blames_the_rate(sd, photos):
    with make(sd, photos) as trainer:
        trainer.step()
        for weight in trainer.tensors().values():
            weight.data.fill_(1e30)
        with pytest.raises(PersresError, match=r"no longer finite at step 2 of the stage: lower the learning rate"):
            trainer.step()


# -- fp16: a scale of the loss, by a scaler's rule


def overflowing(trainer, above, monkeypatch):
    """The trainer's gradients overflow wherever their scale is above so much; the scales that were tried."""
    seen, real = [], Scaler.unscale

    def unscale(self, weights):
        seen.append(self.factor.item())
        if self.factor > above:
            weights[0].grad.view(-1)[0] = float("inf")
        return real(self, weights)

    monkeypatch.setattr(Scaler, "unscale", unscale)
    return seen


def in_halves(sd, photos, monkeypatch):
    """A trainer that scales as in fp16, which this UNet's layers cannot all compute in on every processor."""
    trainer = make(sd, photos)
    monkeypatch.setattr(trainer, "_scaler", Scaler(True, sd.device))
    return trainer


def test_an_overflowing_gradient_lowers_the_scale_and_the_step_is_made_with_the_same_batch(sd, photos, monkeypatch):
    whole = make(sd, photos)
    losses = steps(whole, 4)
    trainer = in_halves(sd, photos, monkeypatch)
    seen = overflowing(trainer, 256, monkeypatch)
    assert steps(trainer, 4) == losses
    assert seen[:4] == [1024.0, 512.0, 256.0, 256.0]
    # powers of two change no digit in fp32
    assert torch.equal(weights(trainer), weights(whole)) and weights(trainer).isfinite().all()


def test_a_gradient_that_is_never_finite_ends_the_training_and_poisons_nothing(sd, photos, tmp_path, monkeypatch):
    for trainer in (make(sd, photos), in_halves(sd, photos, monkeypatch)):
        with monkeypatch.context() as patch, trainer:
            trainer.step()
            before = weights(trainer)
            overflowing(trainer, 0, patch)
            with pytest.raises(PersresError, match="A gradient is no longer finite at step 2 of the stage: lower the"):
                trainer.step()
        assert torch.equal(weights(trainer), before) and trainer.done == 1
        trainer.save_state(tmp_path / "state")
        again = make(sd, photos)
        again.load_state(tmp_path / "state")
        assert weights(again).isfinite().all() and all(
            value.isfinite().all() for moments in again._resumed[1]["state"].values() for value in moments.values()
        )


def test_the_scale_grows_after_many_good_steps_and_survives_a_state(sd, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(Scaler, "GROWTH", 2)
    trainer = in_halves(sd, photos, monkeypatch)
    steps(trainer, 3)
    assert trainer._scaler.factor == 2048
    trainer.save_state(tmp_path / "state")
    again = in_halves(sd, photos, monkeypatch)
    again.load_state(tmp_path / "state")
    steps(again, 1)
    assert again._scaler.factor == 4096
    for _ in range(100):
        again._scaler.made()
    assert again._scaler.factor == Scaler.MOST
