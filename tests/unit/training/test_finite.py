"""What is not finite in a training is said with its likely reason: only what was learned blames the learning rate."""

import copy
import dataclasses

import pytest
import torch
from trainer_bench import make

from lib_persres.errors import PersresError


def broken(sd, part, place, value=float("nan")):
    """The host with one weight of a part that is not finite."""
    other = copy.deepcopy(getattr(sd, part))
    weights = dict(other.named_parameters())
    name = next(name for name in weights if place in name)
    weights[name].data.view(-1)[0] = value
    return dataclasses.replace(sd, **{part: other})


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
        for weight in trainer._weights:
            weight.data.fill_(1e30)
        with pytest.raises(PersresError, match=r"no longer finite at step 2 of the stage: lower the learning rate"):
            trainer.step()
