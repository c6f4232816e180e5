"""What a suite's trainings ask of the trainer: fewer photos, pictures of the class, learned words."""

import numpy as np
from evaluation_bench import TINY, Evaluation, tiny_suite
from PIL import Image

from lib_persres.evaluation import piece as pieces
from lib_persres.evaluation.datasets import toybox
from lib_persres.evaluation.datasets.dataset import Concept
from lib_persres.evaluation.workers import run_here
from lib_persres.residual import Residual


def trained(monkeypatch):
    """The arguments of each trainer that is made from now on."""
    seen, real = [], pieces.Trainer

    def make(*args, **options):
        seen.append((args, options))
        return real(*args, **options)

    monkeypatch.setattr(pieces, "Trainer", make)
    return seen


def suite(**training):
    raw = tiny_suite(steps=1, images=1)
    raw["methods"][1]["training"] |= training
    return raw


def test_a_training_may_see_the_first_photos_alone(tmp_path, monkeypatch):
    seen = trained(monkeypatch)
    Evaluation(tmp_path).perform(tmp_path / "run", run_here, suite(photos=1))
    ((args, options),) = seen
    assert [photo.path.name for photo in args[1]] == ["0.png"]
    assert options["class_photos"] is None  # nothing of it keeps the class


def test_a_training_that_keeps_the_class_gets_the_datasets_pictures_of_it(tmp_path, monkeypatch):
    seen = trained(monkeypatch)
    pixels = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    (tmp_path / "dogs").mkdir()
    Image.fromarray(pixels).save(tmp_path / "dogs" / "0.png")
    photos = Concept.load_class
    monkeypatch.setattr(Concept, "load_class", lambda self: photos(Concept("", "", (), (), tmp_path / "dogs")))
    Evaluation(tmp_path).perform(tmp_path / "run", run_here, suite(changes={"steps": 1, "prior": 1, **TINY}))
    ((_, options),) = seen
    assert [photo.path.parent.name for photo in options["class_photos"]] == ["dogs"]


def test_pictures_are_drawn_with_the_learned_word(tmp_path):
    changes = {"steps": 3, **TINY, "targets": "embedding", "learning_rate": 0.5}
    run = Evaluation(tmp_path).perform(tmp_path / "run", run_here, suite(changes=changes))
    folder = run.piece("rex", "residual").path
    residual = Residual.load(folder / "residual.safetensors")
    assert not residual.factors and residual.embeddings
    base = run.piece("rex", "base").path / "base"
    drawn = sorted((folder / "residual").glob("*.png"))
    assert drawn and any(
        not np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(base / path.name))) for path in drawn
    )


def test_the_toybox_has_pictures_of_each_class_and_none_is_a_concept(tmp_path):
    made = toybox.read(tmp_path, photos=1, class_images=2)
    for concept in made.concepts[:3]:
        found = concept.load_class()
        assert len(found) == 2 and not {p.sha256 for p in found} & {p.sha256 for p in concept.load()}
    assert toybox.read(tmp_path / "none", photos=1).concepts[0].load_class() is None
