"""What a CUDA graph records, as far as it can be seen without a card, and what is done where it cannot be recorded."""

import contextlib

import longhand
import pytest
import torch
from rounding import assert_learned_alike
from standalone_models import UNET
from test_trainer import RECIPE, make, steps, weights
from torch.utils._python_dispatch import TorchDispatchMode

from lib_persres.concept_tokens import ConceptTokens
from lib_persres.lag import Plan
from lib_persres.standalone.modules import build_unet
from lib_persres.training import graph
from lib_persres.training.changes import KINDS
from lib_persres.training.frozen import frozen, lean
from lib_persres.training.maps import MapComparison
from lib_persres.training.recipe import Recipe, Stage
from lib_persres.training.step import Gradients, Rows
from lib_persres.training.texts import Texts

CARD = torch.device("meta")
"""In place of CUDA: it computes nothing, but no other device's numbers meet its own, and to read one is an error."""


class Outside(TorchDispatchMode):
    """The operations that make or take tensors which are not on the card: a graph can hold none of them."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        tensors = [t for t in (*args, out) if isinstance(t, torch.Tensor)]
        if any(tensor.device != CARD for tensor in tensors):
            self.seen.append(str(function))
        return out


def computed(stage: Stage, form: str, monkeypatch) -> list[str]:
    """What a step of a stage does outside of the card, from its second pass on."""
    with CARD:
        unet = build_unet(UNET)
    recipe = Recipe("test", "a test's", (stage,), form=form)
    learned = KINDS[form].of(recipe, unet, torch.Generator().manual_seed(0), CARD)
    texts = Texts(torch.zeros(3, longhand.TOKENS, 32, device=CARD), ConceptTokens((3, 4), own=(3,)))
    rows = Rows(stage, CARD)
    maps = MapComparison(unet, texts.tokens, longhand.TOKENS, stage) if stage.compares_maps else None
    gradients = Gradients(unet, [learned], texts, stage, torch.ones((), device=CARD), maps)
    weights = learned.weights(stage.targets)
    x, t, _ = (tensor.to(CARD) for tensor in longhand.inputs(rows.count))

    def plan(part):  # a plan is made once, and reads its tensors: made elsewhere
        localized = torch.arange(rows.count)[:, None] >= rows.count - stage.localized
        made = Plan(torch.ones(rows.count, 1), localized, torch.zeros(rows.count, 1, longhand.TOKENS))
        for name in ("strength", "gated", "indicator"):
            setattr(made, name, getattr(made, name).to(CARD))
        return made

    monkeypatch.setattr(gradients, "_plan", plan)
    with frozen(unet), lean(unet), texts.fixed_in(unet), learned.attached(), contextlib.ExitStack() as stack:
        if maps:
            stack.enter_context(maps.attached())
        gradients(slice(0, rows.count), x, t, x)
        kept = plan(None)
        monkeypatch.setattr(gradients, "_plan", lambda part: kept)
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
def test_a_step_stays_on_the_card(form, stage, monkeypatch):
    assert computed(stage, form, monkeypatch) == []


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
