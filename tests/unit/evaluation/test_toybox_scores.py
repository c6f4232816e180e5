"""Ground-truth scores on the renderer's own pictures: right pictures score 1, wrong ones 0, part by part."""

import dataclasses

import numpy as np
import pytest
import torch

from lib_persres.toybox.concepts import CONCEPTS, ToyConcept
from lib_persres.toybox.judge import Judge, masks
from lib_persres.toybox.render import render
from lib_persres.toybox.truth import GREY, Expected, score
from lib_persres.toybox.world import BACKGROUNDS, SKINS, Scene, Thing

TRUTH = ToyConcept("bob", "ball", "quarters-1", "snow", 0)
SKIN = next(skin for skin in SKINS if skin.name == TRUTH.skin)


@pytest.fixture(scope="module")
def judge():
    return Judge.load()


def drawn(*scenes):
    pictures = [render(scene)[0] for scene in scenes]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def scored(judge, scenes, **expected):
    return [score(sight, Expected(**expected), TRUTH) for sight in judge.see(drawn(*scenes))]


def ball(**more):
    return Thing("ball", skin=SKIN, **{"area": 0.18, "centre": (44.0, 60.0), **more})


def test_the_concept_itself_is_right_in_every_part(judge):
    (row,) = scored(judge, [Scene((ball(),), "grass", seed=1)], cls="ball", background="grass")
    assert {name: row[name] for name in ("identity", "class", "background", "obeyed")} == dict.fromkeys(
        ("identity", "class", "background", "obeyed"), 1.0
    )
    assert row["area"] == pytest.approx(0.18, abs=0.03)
    assert [row[name] for name in ("colour", "size", "style", "others")] == [None] * 4


def test_each_wrong_part_is_seen_by_itself(judge):
    red_box = Thing("box", "red", area=0.18)
    other_skin = dataclasses.replace(ball(), skin=next(s for s in SKINS if s.name == "target-0"))
    rows = scored(
        judge,
        [Scene((ball(),), "sand", seed=2), Scene((other_skin,), "grass", seed=2), Scene((red_box,), "grass", seed=2)],
        cls="ball",
        background="grass",
    )
    found = [(row["identity"], row["class"], row["background"], row["obeyed"]) for row in rows]
    assert found[0] == (1, 1, 0, 0) and found[1] == (0, 1, 1, 1) and found[2][1:] == (0, 1, 0)


def test_an_empty_picture_obeys_nothing(judge):
    (row,) = scored(judge, [Scene((), "grass", seed=3)], cls="ball", background="grass")
    assert (row["identity"], row["class"], row["background"], row["obeyed"], row["area"]) == (0, 0, 1, 0, 0)


def test_an_added_object_is_looked_for_beside_the_concept(judge):
    star = Thing("star", "red", area=0.08, centre=(100.0, 92.0))
    moon = Thing("moon", "white", area=0.08, centre=(100.0, 92.0))
    small = ball(centre=(36.0, 40.0), area=0.15)
    expected = {"cls": "ball", "background": "grass", "others": (("red", "star"),)}
    scenes = [Scene(things, "grass", seed=4) for things in ((small, star), (small,), (small, moon), (star,))]
    both, alone, wrong, lost = scored(judge, scenes, **expected)
    assert both["identity"] == both["others"] == both["class"] == both["obeyed"] == 1
    assert (alone["identity"], alone["others"], alone["obeyed"]) == (1, 0, 0)
    assert (wrong["identity"], wrong["others"]) == (1, 0)
    assert lost["identity"] == 0 == lost["class"]
    (half,) = scored(judge, scenes[:1], **{**expected, "others": (("red", "star"), ("white", "moon"))})
    assert half["others"] == half["obeyed"] == 0


def test_size_colour_and_another_noun_are_told(judge):
    sizes = [Scene((ball(area=area, centre=(64.0, 64.0)),), "sand", seed=5) for area in (0.07, 0.35)]
    assert [row["size"] for row in scored(judge, sizes, cls="ball", size="small")] == [1, 0]
    assert [row["size"] for row in scored(judge, sizes, cls="ball", size="big")] == [0, 1]
    blue = Scene((Thing("ball", "blue", area=0.18),), "sand", seed=6)
    (row,) = scored(judge, [blue], cls="ball", colour="blue")
    assert row["colour"] == row["obeyed"] == 1 and row["identity"] is None
    star = Scene((Thing("star", skin=SKIN, area=0.2),), "sand", seed=7)
    (row,) = scored(judge, [star], cls="star")
    assert row["identity"] == row["class"] == 1


def test_sketches_are_told_from_photos_on_every_background_that_is_asked_for(judge):
    for name in [name for name in BACKGROUNDS if name != "snow"]:
        photo = Scene((Thing("ball", "black", area=0.18),), name, seed=8)
        sketch = dataclasses.replace(photo, style="sketch")
        sights = judge.see(drawn(photo, sketch))
        assert sights[0].chroma > GREY + 0.03 and sights[1].chroma < 0.01, name
    rows = scored(judge, [photo, sketch], style="sketch")
    assert [row["style"] for row in rows] == [0, 1] and rows[1]["identity"] is None


def test_most_concepts_are_recognised_on_their_own_photos(judge):
    right = 0
    for concept in CONCEPTS:
        skin = next(skin for skin in SKINS if skin.name == concept.skin)
        scene = Scene((Thing(concept.cls, skin=skin, area=0.2),), concept.background, seed=concept.seed)
        (sight,) = judge.see(drawn(scene))
        row = score(sight, Expected(cls=concept.cls, background=concept.background), concept)
        right += row["identity"] == row["obeyed"] == 1
    assert right >= len(CONCEPTS) - 1


def test_masks_are_those_of_the_renderer(judge):
    scenes = [Scene((ball(),), "grass", seed=1), Scene((), "grass", seed=1)]
    pictures = drawn(*scenes)
    found = masks(judge.see(pictures), pictures)
    truth = torch.from_numpy(render(scenes[0])[1][0])
    assert (found[0] & truth).sum() / (found[0] | truth).sum() > 0.85 and not found[1].any()
