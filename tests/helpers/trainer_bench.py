"""A training of two stages on the small model, step by step."""

import torch

from lib_persres.training.recipe import Recipe, Stage
from lib_persres.training.trainer import Trainer

STAGES = (
    Stage("proj_out", "2", 3, 3, 1e-2, decay=True, t_power=1.0, localized=1, keep=2, keep_weight=0.3),
    Stage(rank="2", steps=3, batch=2, learning_rate=5e-3),
)
RECIPE = Recipe("test", "a test's", STAGES, crops=1)


def make(sd, photos, recipe=RECIPE, seed=5, **options):
    return Trainer(sd, photos, "rex", "dog", recipe, resolution=16, seed=seed, identifier="phol", **options)


def steps(trainer, count):
    with trainer:
        return [trainer.step() for _ in range(count)]


def weights(trainer):
    return torch.cat([part.flatten() for f in trainer.residual().factors.values() for part in (f.down, f.up)])
