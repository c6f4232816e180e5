"""How a trainer computes: precision, checkpointing, fixed keys and values, and what it falls back to."""

import copy
from dataclasses import replace

import longhand
import pytest
import torch
from rounding import NETWORK, PRODUCT, assert_learned_alike, assert_near
from trainer_bench import RECIPE, make, steps, weights

from lib_persres.conditioning import Conditioning
from lib_persres.errors import PersresError
from lib_persres.training import computing
from lib_persres.training.options import TARGETS
from lib_persres.training.recipe import Recipe
from lib_persres.training.texts import Texts


def similar(a, b, least):
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > least


@pytest.fixture(scope="module")
def usual(sd, photos):
    """A training as it is without options, and its losses."""
    trainer = make(sd, photos)
    return trainer, steps(trainer, 6)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_another_precision_learns_nearly_the_same_and_leaves_the_weights_to_the_bit(sd, photos, usual, precision):
    usual, losses = usual
    before = longhand.snapshot(sd.unet)
    other = make(sd, photos, precision=precision)
    assert steps(other, 6) == pytest.approx(losses, rel=2e-2)
    assert longhand.snapshot(sd.unet) == before and other.notes == []
    similar(weights(other), weights(usual), 0.99)
    assert torch.equal(weights(other), weights(usual)) == (precision == "float32")


def test_single_precision_on_a_model_in_halves_has_the_lean_layers(sd, photos):
    """The model's own prediction, which theirs is compared with, is rounded as its weights are."""
    halved = copy.deepcopy(sd)
    halved.unet.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        trainer = make(halved, photos, precision="float32")
        steps(trainer, 3)
    assert trainer.notes == []


def test_an_unknown_precision_is_refused_before_anything_is_encoded(sd, photos, monkeypatch):
    monkeypatch.setattr(type(sd), "encode_images", None)
    with pytest.raises(PersresError, match="not 'int8'"):
        make(sd, photos, precision="int8")


def test_checkpointing_learns_the_same_to_rounding(sd, photos, usual):
    usual, losses = usual
    less = make(sd, photos, checkpointing=True)
    start = weights(less)
    assert steps(less, 6) == pytest.approx(losses, rel=NETWORK)
    assert_learned_alike(weights(less), weights(usual), start)


# -- keys and values


def test_keys_and_values_of_the_two_texts_are_computed_once(sd, photos, monkeypatch):
    attention = next(module for name, module in sd.unet.named_modules() if name.endswith("attn2"))
    rows = []
    original = torch.nn.functional.linear

    def linear(x, weight, bias=None):
        if weight is attention.to_k.weight:
            rows.append(len(x))
        return original(x, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    steps(make(sd, photos), 3)
    # the model's own prediction, of one row, then both texts
    assert rows == [1, 2]


def test_other_texts_are_computed_as_ever_while_a_trainer_is_entered(sd, photos):
    x, t, context = longhand.inputs(2, seed=4)
    expected = sd.unet(x, t, context)
    trainer = make(sd, photos)
    with trainer:
        trainer.step()
        assert_near(sd.unet(x, t, context), expected, NETWORK)


def test_rows_look_their_own_texts_keys_up(sd):
    tokens = type("Tokens", (), {"indices": (1, 3)})()
    attention = next(module for name, module in sd.unet.named_modules() if name.endswith("attn2"))
    contexts = torch.randn(2, 5, attention.to_k.in_features)
    texts = Texts(Conditioning(contexts), tokens)
    with texts.fixed_in(sd.unet), torch.no_grad():
        for rows in ([0, 1, 1], [1], [0, 0]):
            texts.rows = torch.tensor(rows)
            assert_near(attention.to_v(contexts[rows]), contexts[rows] @ attention.to_v.weight.T, PRODUCT)


# -- where the model is not the usual one


def test_a_model_with_somebodys_forward_in_it_learns_by_its_own_layers_and_says_so(sd, photos, monkeypatch):
    block = next(module for name, module in sd.unet.named_modules() if name.endswith("attn1"))
    own = block.forward
    monkeypatch.setattr(block, "forward", lambda *args, **kwargs: 3 * own(*args, **kwargs))
    trainer = make(sd, photos)
    before = longhand.snapshot(sd.unet)
    steps(trainer, 3)
    (note,) = trainer.notes
    assert "its own layers, slower" in note and "off by" in note
    assert longhand.snapshot(sd.unet) == before
    x, t, context = longhand.inputs(1, seed=4)
    changed = sd.unet(x, t, context)
    with trainer:
        assert_near(sd.unet(x, t, context), changed, NETWORK)
    assert trainer.notes == [note]


def test_a_layer_that_the_lean_ones_cannot_stand_for_is_told_in_one_sentence(sd, photos, monkeypatch):
    attention = next(module for name, module in sd.unet.named_modules() if name.endswith("attn1"))
    own = attention.to_q.forward

    def picky(x):
        if not isinstance(attention.forward, type(own)):  # a function on the instance: lean
            raise RuntimeError("only my own\nattention")
        return own(x)

    monkeypatch.setattr(attention.to_q, "__class__", type("Picky", (torch.nn.Linear,), {}))
    monkeypatch.setattr(attention.to_q, "forward", picky)
    trainer = make(sd, photos)
    steps(trainer, 1)
    assert len(trainer.notes) == 1 and "only my own" in trainer.notes[0] and "\n" not in trainer.notes[0]


@pytest.mark.parametrize("targets", TARGETS)
def test_whatever_learns_learns_the_same_by_lean_layers_and_by_the_models_own(sd, photos, targets, monkeypatch):
    recipe = Recipe("test", "a test's", tuple(replace(stage, targets=targets) for stage in RECIPE.stages), crops=1)
    lean, usual = make(sd, photos, recipe), make(sd, photos, recipe)
    start, losses = weights(lean), steps(lean, 4)  # of both stages

    def refuse(unet):
        raise RuntimeError("on purpose")

    monkeypatch.setattr(computing, "lean", refuse)
    assert steps(usual, 4) == pytest.approx(losses, rel=1e-3)
    assert lean.notes == [] and len(usual.notes) == 1
    assert_learned_alike(weights(lean), weights(usual), start)
