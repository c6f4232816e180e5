"""AttnDreamBooth's regularization: equation 2 in both readings, its gradient, and when it is there at all."""

import longhand
import pytest
import torch
from rounding import NETWORK, PRODUCT, assert_near
from trainer_bench import steps

from lib_persres.attention import Taps, concept_maps, token_maps
from lib_persres.concept_tokens import ConceptTokens
from lib_persres.errors import PersresError
from lib_persres.training.maps import MapComparison
from lib_persres.training.recipe import Recipe, Stage
from lib_persres.training.trainer import Trainer
from lib_persres.unet import find_blocks

FORMS = ("pooled", "layers")


def make(sd, photos, *, options=None, template="a photo of a {identifier} {macro_class}", **values):
    values = {"targets": "embedding+kv", "rank": "2", "steps": 2, "batch": 3, "learning_rate": 1e-2, **values}
    recipe = Recipe("test", "a test's", (Stage(**values),), crops=1, template=template)
    return Trainer(sd, photos, "rex", "dog", recipe, resolution=16, seed=5, identifier="phol", **(options or {}))


def by_hand(unet, x, t, context, own, noun, stage):
    """Equation 2, head by head, in float64."""
    layers = []

    def see(block, layer, q, k, heads):
        q, k = (m.double().unflatten(-1, (heads, -1)) for m in (q, k))
        logits = torch.einsum("bphd,bnhd->bhpn", q, k) / q.shape[-1] ** 0.5
        maps = logits.softmax(-1)
        layers.append([sum(maps[..., j] for j in places) / len(places) for places in (own, noun)])

    taps = Taps(find_blocks(unet), see)
    unet(x, t, context)
    taps.remove()

    def compare(first, second):
        mean = (first.mean(-1) - second.mean(-1)) ** 2
        return (
            stage.map_mean * mean
            + stage.map_variance * (first.var(-1, unbiased=False) - second.var(-1, unbiased=False)) ** 2
        )

    if stage.map_form == "layers":
        return torch.stack([compare(*(m.flatten(1) for m in pair)) for pair in layers]).mean(0)
    return compare(*(torch.cat([pair[i].mean(1) for pair in layers], dim=-1) for i in (0, 1)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("own, noun", [([3], [4]), ([5], [6, 7])])
def test_it_is_equation_2_written_out(sd, form, own, noun):
    x, t, context = longhand.inputs(3)
    stage = Stage(map_mean=2.0, map_variance=5.0, map_form=form)
    maps = MapComparison(sd.unet, ConceptTokens((*own, *noun), own=tuple(own)), longhand.TOKENS, stage)
    with maps.attached(), maps.watching(2):
        sd.unet(x, t, context)
        found = maps.loss()
    expected = by_hand(sd.unet, x[:2], t[:2], context[:2], own, noun, stage)
    assert_near(found.double(), expected, 8 * NETWORK)  # a square of a difference of means
    assert found.shape == (2,) and found.min() > 0


def test_the_two_readings_differ(sd):
    x, t, context = longhand.inputs(2)
    losses = [by_hand(sd.unet, x, t, context, [3], [4], Stage(map_mean=2.0, map_form=form)) for form in FORMS]
    assert (losses[0] / losses[1] - 1).abs().min() > 0.01


def test_the_maps_of_tokens_are_concept_maps_whose_heads_are_kept():
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 9, 16, generator=generator), torch.randn(2, 5, 16, generator=generator)
    weights = torch.tensor([[0.0, 1, 1, 0, 0], [0, 0, 0, 0.5, 0.5]])
    maps = token_maps(q, k, weights, heads=4)
    assert maps.shape == (2, 4, 2, 9)
    assert_near(maps.mean(1), concept_maps(q, k, weights.expand(2, -1, -1), heads=4), PRODUCT)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", [{"micro_batch": 2}, {"checkpointing": True}], ids=str)
def test_parts_of_a_batch_and_checkpointing_give_the_same_gradient(sd, photos, form, options):
    weighted = {"map_mean": 200.0, "map_variance": 500.0, "map_form": form}
    gradients = []
    for values, ways in ((weighted, {}), (weighted, options), ({}, {})):
        trainer = make(sd, photos, prior=1, keep=1, options={"class_photos": photos, **ways}, **values)
        steps(trainer, 1)
        gradients.append(torch.cat([w.grad.flatten() for w in trainer.tensors().values()]))
    size = gradients[0].abs().max().item()
    assert_near(gradients[1], gradients[0], 8 * NETWORK)
    assert (gradients[2] - gradients[0]).abs().max() > 1e-2 * size


@pytest.mark.parametrize("form", FORMS)
def test_it_is_added_to_the_loss_as_a_mean_over_the_prompts_rows(sd, photos, objectives, form):
    weighted = {"map_mean": 20.0, "map_variance": 5.0, "map_form": form}
    regularized, free = (make(sd, photos, keep=1, **values) for values in (weighted, {}))
    (with_it,), (without,) = steps(regularized, 1), steps(free, 1)
    z_t, t, context = (part[:3].detach() for part in objectives[0][:3])
    ids = sd.encode_prompts(["a photo of a phol dog"])[1][0].tolist()
    own, noun = ids.index(sd.encode_text("phol")[0]), ids.index(sd.encode_text("dog")[0])
    expected = by_hand(sd.unet, z_t, t, context, [own], [noun], regularized.recipe.stages[0]).mean()
    assert with_it - without == pytest.approx(expected.item(), rel=2e-2)


def test_learning_by_it_alone_brings_the_maps_together(sd, photos):
    trainer = make(sd, photos, targets="embedding", steps=25, map_mean=1e5, learning_rate=1e-1)
    steps(trainer, 25)
    assert sum(trainer.losses[-5:]) < 0.5 * sum(trainer.losses[:5])


def test_a_template_without_the_class_has_nothing_to_compare(sd, photos):
    with pytest.raises(PersresError, match="compares the maps of V\\* and its class"):
        make(sd, photos, map_mean=1.0, template="a photo of a {identifier}")


@pytest.mark.parametrize("values", [{"map_mean": -1.0}, {"map_variance": float("nan")}, {"map_form": "heads"}])
def test_values_that_cannot_be_are_refused(values):
    with pytest.raises(PersresError, match=next(iter(values))):
        Stage(**values)
