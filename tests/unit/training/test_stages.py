"""What a recipe's stage may ask for beyond the paper: a falling rate, high noise, learning under LAG, keeping."""

from dataclasses import replace

import longhand
import pytest
import torch
from branch_calls import plain_plan
from rounding import NETWORK, assert_near

from lib_persres.branch import Branches
from lib_persres.errors import PersresError
from lib_persres.lag import Lag
from lib_persres.masks import IN_ONE_PASS, Mask, PerBlock
from lib_persres.training import trainer
from lib_persres.training.loop import train
from lib_persres.training.objective import draw_timesteps
from lib_persres.training.recipe import Recipe, Stage
from lib_persres.training.recipes import RECIPES


def learn(sd, photos, *, template="a photo of a {identifier} {macro_class}", **stage):
    stage = Stage(**{"rank": "2", "steps": 4, "batch": 2, "learning_rate": 1e-2, **stage})
    how = Recipe("test", "a test's", (stage,), template=template, crops=1)
    return train(sd, photos, "rex", "dog", how, resolution=16, seed=5, identifier="phol")


def changes(residual, sd, prompt):
    """The mean square of what the residual adds to the model's prediction under a prompt."""
    x, t, _ = longhand.inputs(8, seed=3)
    context = sd.encode_prompts([prompt])[0].context.expand(8, -1, -1)
    with Branches(sd.unet, [residual]) as branches, torch.no_grad():
        base = sd.unet(x, t, context)
        branches.plan = plain_plan(8)
        return ((sd.unet(x, t, context) - base) ** 2).mean().item()


# -- the rate


def test_a_decaying_rate_falls_linearly_to_zero(sd, photos, monkeypatch):
    rates = []

    class Adam(torch.optim.Adam):
        def step(self, *args, **kwargs):
            rates.append(self.param_groups[0]["lr"])
            return super().step(*args, **kwargs)

    monkeypatch.setattr(trainer.torch.optim, "Adam", Adam)
    learn(sd, photos, steps=4, decay=True)
    learn(sd, photos, steps=2)
    assert rates == pytest.approx([1e-2, 0.75e-2, 0.5e-2, 0.25e-2, 1e-2, 1e-2])


# -- the timesteps


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 3.0])
def test_timesteps_have_density_t_to_the_power(power):
    t = draw_timesteps(200_000, 1000, power, torch.Generator().manual_seed(0))
    assert t.min() >= 0 and t.max() <= 999
    for bound in (200, 500, 800):
        assert (t < bound).double().mean() == pytest.approx((bound / 1000) ** (power + 1), abs=5e-3)


# -- keeping the empty prompt


def test_what_is_kept_adds_its_own_squared_error_to_equation_1(sd, photos, objectives):
    learned = learn(sd, photos, steps=1, batch=3, keep=2, keep_weight=0.3)
    ((z_t, t, context, target, weight),) = objectives
    prompt, empty = sd.encode_prompts(["a photo of a phol dog", ""])[0].context
    assert torch.equal(context, torch.stack([prompt] * 3 + [empty] * 2))
    base = sd.unet(z_t[3:], t[3:], context[3:])
    assert_near(target[3:], base, NETWORK)
    assert weight.tolist() == pytest.approx([1 / 3] * 3 + [0.15] * 2)
    # nothing is learned yet: equation 1 of the base model, and nothing to keep
    error = ((sd.unet(z_t[:3], t[:3], context[:3]) - target[:3]) ** 2).mean()
    assert learned.metadata.loss["first"] == pytest.approx(error.item(), rel=2 * NETWORK)


def test_the_first_step_keeps_nothing_since_nothing_has_changed_yet(sd, photos):
    losses = [learn(sd, photos, steps=1, keep=2, keep_weight=w).metadata.loss["first"] for w in (0.0, 100.0)]
    assert losses[1] == pytest.approx(losses[0], rel=2 * NETWORK)


def test_a_residual_that_keeps_is_quieter_without_its_prompt(sd, photos):
    many = {"steps": 15, "learning_rate": 3e-2, "keep_weight": 5.0}
    free, keeping = (learn(sd, photos, keep=keep, **many) for keep in (0, 2))
    named = "a photo of a phol dog"
    shares = [changes(residual, sd, "") / changes(residual, sd, named) for residual in (free, keeping)]
    assert shares[1] < 0.8 * shares[0]


# -- learning under LAG


def test_the_last_rows_of_the_batch_learn_under_lag_and_the_kept_ones_everywhere(sd, photos, monkeypatch):
    maps, seen = [], []
    original, shown = Lag.gates, PerBlock.see
    monkeypatch.setattr(PerBlock, "see", lambda self, view, found: maps.append(found) or shown(self, view, found))
    monkeypatch.setattr(Lag, "gates", lambda self, block, plan: seen.append(original(self, block, plan)) or seen[-1])
    learn(sd, photos, steps=1, batch=3, keep=2, localized=2)
    assert len(seen) == len(longhand.transformers(sd.unet))
    for found, gate in zip(maps, seen, strict=True):
        assert gate.shape[:2] == (5, 1)
        assert torch.equal(gate[1:3], (found > found.median(-1, keepdim=True).values).float())
        assert bool((gate[[0, 3, 4]] == 1).all())
    seen.clear(), maps.clear()
    learn(sd, photos, steps=1, batch=3, keep=2)
    assert not maps and all(bool((gate == 1).all()) for gate in seen)


def test_each_step_of_a_localized_stage_has_masks_of_its_own(sd, photos, monkeypatch):
    gates = []
    original = Lag.gates
    monkeypatch.setattr(Lag, "gates", lambda self, block, plan: gates.append(original(self, block, plan)) or gates[-1])
    learn(sd, photos, steps=3, localized=2)
    assert all(0.4 < gate.mean() <= 0.5 for gate in gates)
    blocks = len(longhand.transformers(sd.unet))
    assert any(not torch.equal(a, b) for a, b in zip(gates[:blocks], gates[blocks : 2 * blocks]))


def test_a_recipe_names_its_mask(sd, photos, monkeypatch):
    class Nowhere(Mask):
        def gate(self, view):
            assert view.step == 0 and view.done is None  # each row has a noise level of its own
            return torch.zeros(view.shape)

    monkeypatch.setitem(IN_ONE_PASS, "nowhere", Nowhere)
    recipe = Recipe("test", "a test's", (Stage(rank="2", steps=1, batch=2, localized=2),), mask="nowhere")
    made = trainer.Trainer(sd, photos, "rex", "dog", recipe, resolution=16, identifier="phol")
    before = {name: f.up.clone() for name, f in made.residual().factors.items()}
    with made:
        made.step()
    assert all(torch.equal(f.up, before[name]) for name, f in made.residual().factors.items())
    with pytest.raises(PersresError, match="mask can be median, .*nowhere, not 'everywhere'"):
        replace(recipe, mask="everywhere")


def test_a_localized_stage_goes_by_the_identifier_alone_where_the_template_leaves_the_class_out(sd, photos):
    chosen = Recipe("test", "a test's", (Stage(rank="2", localized=1),), template="a photo of a {identifier}")
    found = {}
    for name, recipe in (("alone", chosen), ("both", replace(chosen, template="a {identifier} {macro_class}"))):
        trainer_ = trainer.Trainer(sd, photos, "rex", "dog", recipe, resolution=16, identifier="phol")
        found[name] = len(trainer_._texts.tokens.indices)
    assert 1 <= found["alone"] < found["both"]
    learn(sd, photos, template="a photo of a {identifier}", steps=1, localized=1)


def test_a_localized_stage_refuses_a_template_whose_class_does_not_follow_the_identifier(sd, photos):
    template = "a {macro_class}, " + "very " * 12 + "like {identifier}"
    with pytest.raises(PersresError, match="dog"):
        learn(sd, photos, template=template, localized=1)
    learn(sd, photos, template=template, steps=1)


# -- as data


@pytest.mark.parametrize(
    "name, value",
    [
        *(("keep", -1), ("keep", 1.5), ("localized", 5), ("localized", -1)),
        *(("t_power", -1), ("t_power", "x"), ("keep_weight", float("nan"))),
    ],
)
def test_values_that_no_stage_can_have_are_refused(name, value):
    with pytest.raises(PersresError, match=name):
        Stage(batch=4, **{name: value})


def test_the_papers_recipe_asks_for_none_of_these():
    (stage,) = RECIPES["paper"].stages
    assert (stage.decay, stage.t_power, stage.localized, stage.keep) == (False, 0.0, 0, 0)
