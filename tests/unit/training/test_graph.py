"""What a CUDA graph records, as far as it can be seen without a card, and what is done where it cannot be recorded."""

import contextlib

import longhand
import pytest
import torch
from pretended_card import CARD, Outside
from rounding import assert_learned_alike
from standalone_models import UNET
from trainer_bench import RECIPE, make, steps, weights

from lib_persres.concept_tokens import ConceptTokens
from lib_persres.conditioning import Conditioning
from lib_persres.standalone.modules import build_unet
from lib_persres.training import graph
from lib_persres.training.changes import KINDS
from lib_persres.training.frozen import frozen, lean
from lib_persres.training.maps import MapComparison
from lib_persres.training.recipe import Recipe, Stage
from lib_persres.training.step import Gradients, Rows
from lib_persres.training.texts import Texts


def computed(stage: Stage, form: str) -> list[str]:
    """What a step of a stage does outside of the card, from its second pass on."""
    with CARD:
        unet = build_unet(UNET)
    recipe = Recipe("test", "a test's", (stage,), form=form)
    learned = KINDS[form].of(recipe, unet, torch.Generator().manual_seed(0), CARD)
    texts = Texts(Conditioning(torch.zeros(3, longhand.TOKENS, 32, device=CARD)), ConceptTokens((3, 4), own=(3,)))
    rows = Rows(stage, CARD)
    maps = MapComparison(unet, texts.tokens, longhand.TOKENS, stage) if stage.compares_maps else None
    gradients = Gradients(unet, [learned], texts, stage, torch.ones((), device=CARD), maps)
    weights = learned.weights(stage.targets)
    x, t, _ = (tensor.to(CARD) for tensor in longhand.inputs(rows.count))

    with frozen(unet), lean(unet), texts.fixed_in(unet), learned.attached(), contextlib.ExitStack() as stack:
        if maps:
            stack.enter_context(maps.attached())
        gradients(slice(0, rows.count), x, t, x)  # the plan is made, and brought over
        with Outside() as outside:
            gradients(slice(0, rows.count), x, t, x)
    assert all(weight.grad.device == CARD for weight in weights)
    return outside.seen


@pytest.mark.parametrize(
    "form, stage",
    [
        ("low-rank", Stage("proj_in+kv+proj_out", "2", 1, 3, localized=2, keep=1, prior=1, map_mean=1.0)),
        ("full", Stage("unet", "2", 1, 2, keep=1)),
        ("orthogonal", Stage("attn1+attn2", "2", 1, 2)),
    ],
)
def test_a_step_stays_on_the_card(form, stage):
    assert computed(stage, form) == []


# -- where it cannot be recorded, and where it can


def test_a_step_that_cannot_be_recorded_as_a_graph_is_told(monkeypatch):
    def refuse(*_):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graph, "Graph", refuse)
    weight, notes = torch.nn.Parameter(torch.ones(2)), []

    def compute(x):
        loss = (weight * x).sum()
        loss.backward()
        return loss.detach()

    assert graph.recorded(compute, [torch.ones(2)], [weight], notes) is None
    assert len(notes) == 1 and "without a CUDA graph" in notes[0] and "not permitted" in notes[0]


def test_a_graph_that_gives_other_gradients_is_not_used(monkeypatch):
    weight, notes = torch.nn.Parameter(torch.ones(2)), []

    def compute(x):
        loss = (weight * x).sum()
        loss.backward()
        return loss.detach()

    class Wrong:
        def __init__(self, compute, inputs, weights):
            pass

        def __call__(self, *inputs):
            weight.grad = torch.tensor([1.0, 1.1])

    monkeypatch.setattr(graph, "Graph", Wrong)
    assert graph.recorded(compute, [torch.ones(2)], [weight], notes) is None
    assert "off by" in notes[0]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_step_on_cuda_is_one_graph_with_the_result_of_separate_kernels(sd, photos, monkeypatch):
    unet = sd.unet.to("cuda")
    monkeypatch.setattr(sd, "device", torch.device("cuda"))
    try:
        sd.vae.to("cuda"), sd.text.to("cuda")
        graphed, eager = make(sd, photos), make(sd, photos)
        start, losses = weights(graphed), steps(graphed, RECIPE.steps)
        assert graphed.notes == []
        monkeypatch.setattr(type(sd), "stays", False)
        assert steps(eager, RECIPE.steps) == pytest.approx(losses, rel=1e-3)
        assert_learned_alike(weights(graphed), weights(eager), start)
    finally:
        unet.to("cpu"), sd.vae.to("cpu"), sd.text.to("cpu")
