"""Other targets than proj_out under what the trainer does for speed and memory."""

import pytest
import torch

pytest.importorskip("ldm")

from rounding import LEARNED

from lib_persres.training.recipe import Recipe, Stage
from lib_persres.training.trainer import Trainer

RULE = "proj_in+attn2+proj_out"


def learn(sd, photos, **options):
    """One step's gradients by factor, and the loss."""
    stage = Stage(RULE, "2", 2, 3, 1e-2, localized=1, keep=1, keep_weight=0.5)
    recipe = Recipe("test", "a test's", (stage,), crops=1)
    trainer = Trainer(sd, photos, "rex", "dog", recipe, resolution=16, seed=5, identifier="phol", **options)
    with trainer:
        trainer.step()  # up is 0 before it
        loss = trainer.step()
    return torch.cat([weight.grad.flatten() for weight in trainer._weights]), loss


@pytest.fixture(scope="module")
def plain(sd, photos):
    return learn(sd, photos)


@pytest.mark.parametrize("options", [{"checkpointing": True}, {"micro_batch": 1}])
def test_checkpointing_and_parts_of_a_batch_give_every_target_the_same_gradient(sd, photos, plain, options):
    gradients, loss = learn(sd, photos, **options)
    # of the second step, to which Adam has moved every weight by as much, those of no gradient but rounding's as well
    assert loss == pytest.approx(plain[1], rel=1e-3)
    assert (gradients - plain[0]).norm() < LEARNED * plain[0].norm()


def test_in_bfloat16_every_target_learns_about_the_same(sd, photos, plain):
    gradients, loss = learn(sd, photos, precision="bfloat16")
    assert loss == pytest.approx(plain[1], rel=0.05)
    assert torch.cosine_similarity(gradients, plain[0], dim=0) > 0.9
