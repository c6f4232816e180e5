"""Targets beside proj_out from the trainer to the picture: learned, resumed, drawn, shown."""

import json

import longhand
import pytest
import torch
from rounding import PICTURE

from lib_persres.commands import main
from lib_persres.residual import Residual
from lib_persres.standalone.generate import generate
from lib_persres.training.options import TARGETS
from lib_persres.training.recipe import Recipe, Stage
from lib_persres.training.trainer import Trainer
from lib_persres.unet import find_targets

RULES = (*TARGETS, "attn2")
PROMPT = "<persres:rex> a photo of a V* dog"


def make(sd, photos, rule, **stage):
    stages = Stage(rule, "2", 2, 2, 1e-2, **stage), Stage(rule, "2", 1, 2, 1e-2)
    recipe = Recipe("test", "a test's", stages, crops=1)
    return Trainer(sd, photos, "rex", "dog", recipe, resolution=16, seed=5, identifier="phol")


def learn(sd, photos, rule, **stage):
    trainer = make(sd, photos, rule, **stage)
    with trainer:
        while not trainer.finished:
            trainer.step()
    return trainer.residual()


@pytest.fixture(scope="module")
def learned(sd, photos):
    """The residual of each rule, learned once."""
    made = {}

    def get(rule):
        if rule not in made:
            made[rule] = learn(sd, photos, rule)
        return made[rule]

    return get


def images(sd, residual, prompt=PROMPT, **options):
    return generate(sd, prompt, {"rex": residual}.__getitem__, width=16, height=16, steps=2, **options)


@pytest.mark.parametrize("rule", RULES)
def test_every_target_of_the_rule_learns_and_nothing_else(sd, learned, rule):
    before = longhand.snapshot(sd.unet)
    residual = learned(rule)
    assert longhand.snapshot(sd.unet) == before
    assert list(residual.factors) == [target.path for target in find_targets(sd.unet, rule)]
    assert all(f.up.abs().max() > 0 for f in residual.factors.values())
    assert residual.metadata.targets == rule == residual.metadata.recipe["stages"][0]["targets"]
    residual.check(sd.unet)


def test_rules_of_one_meaning_learn_the_same(sd, photos, learned):
    other = learn(sd, photos, "proj_out+kv")
    for path, f in learned("kv+proj_out").factors.items():
        assert torch.equal(f.up, other.factors[path].up) and torch.equal(f.down, other.factors[path].down)


def test_rows_under_lag_and_kept_rows_learn_keys_and_values(sd, photos):
    options = {"localized": 1, "keep": 1, "keep_weight": 0.5}
    for rule in ("kv", "proj_in+kv+proj_out"):
        residual = learn(sd, photos, rule, **options)
        assert all(f.up.abs().max() > 0 and f.up.isfinite().all() for f in residual.factors.values())


def test_a_training_of_keys_and_values_is_resumed_bit_identically(sd, photos, tmp_path, learned):
    first = make(sd, photos, "kv+proj_out")
    with first:
        first.step()
    first.save_state(tmp_path / "state")
    again = make(sd, photos, "kv+proj_out")
    again.load_state(tmp_path / "state")
    with again:
        while not again.finished:
            again.step()
    whole = learned("kv+proj_out")
    for path, f in again.residual().factors.items():
        assert torch.equal(f.up, whole.factors[path].up)


@pytest.mark.parametrize("rule", RULES)
def test_a_picture_is_that_of_merged_weights(sd, learned, rule):
    residual = learned(rule)
    drawn = images(sd, residual)
    assert not drawn.problems
    untouched = sd.unet
    try:
        sd.unet = longhand.merged(untouched, [residual], [1.0])
        explicit = images(sd, None, "a photo of a phol dog")
    finally:
        sd.unet = untouched
    assert (drawn.images - explicit.images).abs().max() < PICTURE
    assert (drawn.images - images(sd, None, "a photo of a phol dog").images).abs().max() > 2 * PICTURE


def test_keys_and_values_alone_are_confined_by_an_early_mask_alone(sd, learned):
    kv = learned("kv")
    plain, lag = images(sd, kv), images(sd, kv, lag=True)
    assert not torch.equal(plain.images, lag.images) and lag.masks is not None and not lag.problems
    lag = images(sd, kv, lag=True, mask="median")
    assert torch.equal(plain.images, lag.images) and lag.masks is None
    assert lag.problems == ["LAG cannot confine <persres:rex>, which changes kv, not proj_out: it acts everywhere."]
    both = learned("kv+proj_out")
    lag = images(sd, both, lag=True)
    assert not lag.problems and lag.masks is not None
    assert not torch.equal(lag.images, images(sd, both).images)


def test_inspect_shows_the_targets(sd, learned, tmp_path, capsys):
    path = tmp_path / "rex.safetensors"
    learned("kv+proj_out").save(path)
    assert main(["inspect", str(path)]) == 0
    blocks = len(longhand.transformers(sd.unet))
    assert f"targets     kv+proj_out, {3 * blocks} modules" in capsys.readouterr().out
    assert main(["inspect", "--json", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["modules"] == 3 * blocks


def test_the_command_refuses_targets_that_there_are_not(tmp_path, capsys):
    words = ["--images", str(tmp_path), "--name", "rex", "--class", "dog", "--out", str(tmp_path / "rex.safetensors")]
    assert main(["train", *words, "--targets", "values"]) == 1
    said = capsys.readouterr().err
    assert "'values' names no targets: they are embedding, proj_in, attn1, kv, attn2, ff, proj_out, unet" in said


def test_a_file_that_says_nothing_of_targets_is_of_proj_out(sd, learned, tmp_path):
    import safetensors.torch

    path = tmp_path / "rex.safetensors"
    learned("proj_out").save(path)
    with safetensors.safe_open(path, framework="pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    del header["targets"]
    safetensors.torch.save_file(tensors, path, header)
    Residual.load(path).check(sd.unet)
