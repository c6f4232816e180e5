"""The scores of a run on pictures that the renderer drew: what a picture is known to show is what its row says."""

import numpy as np
import pytest
import torch
from PIL import Image

from lib_persres.evaluation.datasets import toybox
from lib_persres.evaluation.planning import plan
from lib_persres.evaluation.protocol import prompts_of
from lib_persres.evaluation.run_folder import RunFolder, picture_name
from lib_persres.evaluation.scoring import Scorer, score_subject
from lib_persres.evaluation.suite import Suite
from lib_persres.toybox.judge import Judge
from lib_persres.toybox.render import render
from lib_persres.toybox.world import SKINS, Scene, Thing

PROMPTS = 6
METHODS = [
    {"name": "base", "training": None},
    {"name": "residual", "training": {"name": "residual", "recipe": "toybox"}},
    {"name": "residual+lag", "training": "residual", "lag": True},
]
SUITE = {
    "name": "test",
    "methods": METHODS,
    "sampling": {"steps": 1, "guidance": 1, "images": 1, "prompts": PROMPTS},
}


def picture(concept, prompt, skin):
    """A rendering of what the prompt asks for, its thing in a skin; and the thing's mask."""
    truth, expected = concept.truth, prompt.expected
    thing = Thing(
        expected.cls if expected else truth.cls,
        colour=expected.colour if expected and expected.colour else "red",
        skin=None if expected and expected.colour else next(s for s in SKINS if s.name == skin),
        area=0.2,
        centre=(64.0, 64.0),
    )
    place = expected.background if expected and expected.background else truth.background
    style = expected.style if expected else "photo"
    pixels, masks = render(Scene((thing,), place, seed=3, style=style))[:2]
    return Image.fromarray(pixels), np.asarray(masks).reshape(-1, 128, 128)[0] > 0


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """The base model draws another skin; the residual the right one; under LAG it draws the base's picture."""
    root = tmp_path_factory.mktemp("run")
    run, suite = RunFolder(root), Suite.from_dict(SUITE)
    dataset = toybox.read(root / "data")
    concept = dataset.concept("otto")
    for method in suite.methods:
        skin = concept.truth.skin if method.name == "residual" else "target-0"
        folder = run.piece(concept.name, method.piece)
        for index, prompt in prompts_of(concept, PROMPTS).items():
            image, mask = picture(concept, prompt, skin)
            share = mask.reshape(16, 8, 16, 8).mean((1, 3)).astype(np.float16)
            folder.write_picture(method.name, picture_name(index, 0), image, share if method.lag else None)
        folder.gather_masks(method.name)
    ((subject, methods),) = plan(suite, dataset, ["otto"])
    assert score_subject(run, 1, subject, methods, Scorer(judge=Judge.load()))
    assert not score_subject(run, 1, subject, methods, Scorer(judge=Judge.load()))
    return concept, run.rows("otto")


def column(scored, method, name):
    return [row[name] for row in scored[1] if row["method"] == method and row.get(name) is not None]


def test_the_concepts_skin_is_recognised_where_it_was_drawn(scored):
    assert np.mean(column(scored, "residual", "identity")) == 1
    assert np.mean(column(scored, "base", "identity")) == np.mean(column(scored, "residual+lag", "identity")) == 0


def test_places_and_classes_are_right_as_drawn(scored):
    for method in ("base", "residual"):
        assert np.mean(column(scored, method, "background")) == 1 and np.mean(column(scored, method, "class")) == 1


def test_the_background_is_compared_with_the_bases_picture(scored):
    assert column(scored, "base", "background_distance") == []
    assert max(column(scored, "residual+lag", "background_distance")) == 0
    # another skin inside, nothing outside
    assert max(column(scored, "residual", "background_distance")) < 0.5


def test_lags_masks_are_compared_with_the_thing(scored):
    assert column(scored, "residual", "mask_iou") == []
    assert len(column(scored, "residual+lag", "mask_iou")) >= PROMPTS - 2
    assert min(column(scored, "residual+lag", "mask_iou")) > 0.75
    assert min(column(scored, "residual+lag", "mask_auc")) > 0.9


def test_what_changes_without_v_star_is_drift(scored):
    drifted = {m: column(scored, m, "drift") for m in ("base", "residual", "residual+lag")}
    assert drifted["base"] == [] and drifted["residual+lag"] == [0, 0] and min(drifted["residual"]) > 1
    rows = [row for row in scored[1] if row.get("drift") is not None]
    assert all(row["category"] == "without V*" and "identity" not in row for row in rows)


def test_a_row_says_where_it_is_from(scored):
    concept, rows = scored
    assert {row["concept"] for row in rows} == {concept.name} and not any(row["tuned"] for row in rows)
    texts = {row["text"] for row in rows}
    assert "a photo of a heart" in texts and not any("V*" in text for text in texts)
    asked = [row for row in rows if row["category"] != "without V*"]
    assert len(asked) == 3 * PROMPTS and torch.isfinite(torch.tensor([row["area"] for row in asked])).all()
