"""What a recipe takes, told before it is trained, against what its training took."""

from dataclasses import replace

import pytest
import torch
from trainer_bench import steps

from lib_persres.residual import Residual
from lib_persres.standalone.full_sizes import SD1_UNET
from lib_persres.standalone.modules import build_unet
from lib_persres.training import prior
from lib_persres.training.estimate import bytes_text, estimate
from lib_persres.training.recipe import Recipe, Stage
from lib_persres.training.recipes import RECIPES
from lib_persres.training.trainer import Trainer


@pytest.fixture(scope="module")
def sd1():
    with torch.device("meta"):
        return build_unet(SD1_UNET)


def small(name):
    """The recipe's targets, form and rank, in a step of each stage."""
    recipe = RECIPES[name]
    stages = tuple(replace(stage, steps=1, batch=1, localized=0) for stage in recipe.stages)
    return recipe.changed(stages=stages, rank="3" if name != "paper" else None, crops=0, class_images=1)


def held(trainer):
    """Bytes of what learns, of its gradients and of the optimizer's moments."""
    tensors = list(trainer.tensors().values())
    moments = [value for state in trainer._optimizer[1].state.values() for value in state.values() if value.dim()]
    gradients = [tensor.grad for tensor in tensors if tensor.grad is not None]
    return sum(tensor.numel() * tensor.element_size() for tensor in [*tensors, *moments, *gradients])


@pytest.mark.parametrize("name", list(RECIPES))
def test_files_and_memory_are_what_a_training_takes(sd, photos, tmp_path, name, monkeypatch):
    monkeypatch.setattr(prior, "STEPS", 1)
    recipe = small(name)
    told = estimate(recipe, sd.unet)
    trainer = Trainer(sd, photos, "rex", "dog", recipe, resolution=16, identifier="phol")
    most = 0
    with trainer:
        while not trainer.finished:
            trainer.step()
            most = max(most, held(trainer))
    assert told.learned == sum(tensor.numel() for tensor in trainer.tensors().values())
    assert told.memory == most
    residual = trainer.residual()
    assert told.stored == residual.parameters_count()
    path = tmp_path / "rex.safetensors"
    residual.save(path)
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert told.file == path.stat().st_size - header
    assert Residual.load(path).parameters_count() == told.stored


def test_work_is_the_rows_that_are_learned_from_over_the_papers_600(sd):
    assert estimate(RECIPES["paper"], sd.unet).work == 1 and estimate(RECIPES["paper"], sd.unet).drawing == 0
    stages = (Stage(steps=10, batch=8), Stage("kv", steps=5, batch=4, prior=4, keep=2))
    told = estimate(Recipe("test", "", stages, class_images=7), sd.unet)
    assert told.work == pytest.approx((10 * 8 + 5 * 10) / 600)
    assert told.drawing == 7 * 50 * 2
    assert estimate(RECIPES["attndreambooth"], sd.unet).work == pytest.approx(8.8)


def test_the_rows_that_are_drawn_are_those_that_the_model_sees(sd, photos, monkeypatch):
    monkeypatch.setattr(prior, "STEPS", 2)
    recipe = small("dreambooth").changed(class_images=5)
    rows = []
    trainer = Trainer(sd, photos, "rex", "dog", recipe, resolution=16, identifier="phol")
    with trainer:
        handle = sd.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
        trainer.draw_class()
        handle.remove()
    steps(trainer, 1)
    assert sum(rows) == estimate(recipe, sd.unet).drawing == 20


def test_sizes_of_sd1_are_known_without_its_weights(sd1):
    paper, ti, whole = (estimate(RECIPES[name], sd1) for name in ("paper", "textual-inversion", "attndreambooth"))
    assert (paper.stored, paper.file) == (1_239_040, 2_478_080)
    assert (ti.stored, ti.file) == (768, 1536)
    # every Linear and Conv2d, without biases and norms
    layers = [module for module in sd1.modules() if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))]
    weights = [layer.weight.numel() for layer in layers]
    assert whole.learned == sum(weights) + 768
    assert whole.memory == 4 * (whole.learned + 3 * sum(weights))


def test_sizes_are_read_easily():
    assert [bytes_text(count) for count in (0, 768, 1536, 2_478_080, 105_000_000, 13_750_000_000)] == [
        *("0 bytes", "768 bytes", "1.5 KB", "2.5 MB", "105 MB", "14 GB")
    ]
