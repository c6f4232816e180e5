"""The Toybox's renderer, captions and training helpers."""

import numpy as np
import pytest
import torch

from lib_persres.identifiers import IDENTIFIERS
from lib_persres.masks import View
from lib_persres.overlay import MaskRecorder, overlay
from lib_persres.plan import Row
from lib_persres.toybox.maps import best_iou
from lib_persres.toybox.render import UNIT_AREA, render, signed_distance
from lib_persres.toybox.scenes import scene_of
from lib_persres.toybox.training.captions import rare_words
from lib_persres.toybox.world import (
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    PATTERNS,
    SIZE,
    SKINS,
    Scene,
    Thing,
    describe,
    random_scene,
)


def test_the_world_is_as_large_as_promised():
    assert len(CLASSES) >= 8 and len(COLOURS) >= 8 and len(PATTERNS) >= 4 and len(BACKGROUNDS) >= 6
    assert len(SKINS) >= 20 and len({skin.name for skin in SKINS}) == len(SKINS)


@pytest.mark.parametrize("cls", CLASSES)
def test_unit_areas_are_those_of_the_shapes(cls):
    side = 600
    v, u = (np.mgrid[0:side, 0:side] + 0.5) / side * 2.6 - 1.3
    area = (signed_distance(cls, u, v) < 0).mean() * 2.6**2
    assert area == pytest.approx(UNIT_AREA[cls], rel=0.01)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("area", [0.05, 0.15])
def test_a_thing_covers_its_share_of_the_picture(cls, area):
    _, masks = render(Scene((Thing(cls, "red", area=area),), "snow"))
    assert masks[0].mean() == pytest.approx(area, abs=0.005)  # whole pixels at the edge


def test_outside_the_masks_the_picture_is_the_background_alone():
    things = (Thing("ball", "red", area=0.1, centre=(40, 40)), Thing("box", "blue", area=0.1, centre=(90, 90)))
    picture, masks = render(Scene(things, "grass", seed=3))
    background, _ = render(Scene((), "grass", seed=3))
    covered = masks.any(0)
    grown = np.zeros_like(covered)  # antialiased edges reach one pixel beyond the masks
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            grown |= np.roll(covered, (dy, dx), (0, 1))
    assert np.array_equal(picture[~grown], background[~grown])
    assert (picture[masks[0]] != background[masks[0]]).any(-1).mean() > 0.99


def test_a_thing_in_front_hides_the_one_behind_in_the_masks():
    behind, front = Thing("box", "red", area=0.3), Thing("ball", "blue", area=0.1)
    _, masks = render(Scene((behind, front), "sand"))
    assert not (masks[0] & masks[1]).any()
    assert masks[1].mean() == pytest.approx(0.1, rel=0.06)
    assert masks[0].mean() == pytest.approx(0.2, rel=0.06)


def test_the_same_scene_is_the_same_picture():
    assert scene_of(7, 5) == scene_of(7, 5) and scene_of(7, 5) != scene_of(7, 6)
    assert np.array_equal(render(scene_of(7, 5))[0], render(scene_of(7, 5))[0])


def test_skins_are_outside_the_palette_and_never_in_the_training_set():
    palette = {tuple(colour) for colour in COLOURS.values()}
    for skin in SKINS:
        assert not palette & set(skin.colours)
    assert all(thing.skin is None for i in range(200) for thing in scene_of(7, i).things)


def test_captions_name_what_is_there_and_own_their_words():
    rng = np.random.default_rng(0)
    for _ in range(100):
        scene = random_scene(rng)
        caption = describe(scene, rng, ("sune",))
        assert len(caption.words) == len(caption.owners)
        for index, thing in enumerate(scene.things):
            owned = [w for w, owner in zip(caption.words, caption.owners) if owner == index]
            assert owned[-1] == thing.cls
            assert not set(owned) & set(COLOURS) - {thing.colour}


def test_every_word_of_the_toybox_is_one_token(tokenizer):
    phrases = [*CLASSES, *COLOURS, *PATTERNS, *BACKGROUNDS.values(), "photo sketch picture small big and of"]
    for word in " ".join(phrases).split():
        assert len(tokenizer.encode(word)) == 1, word


def test_rare_words_are_one_token_each_and_leave_the_identifiers_new(tokenizer):
    words = rare_words(tokenizer, IDENTIFIERS)
    assert len(words) > 1000 and not set(words) & set(IDENTIFIERS)
    assert all(len(tokenizer.encode(word)) == 1 for word in words[::100])


def test_best_threshold_iou_finds_a_perfect_map_and_half_of_an_even_one():
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[32:96, 32:96] = True
    assert best_iou(mask.float(), mask) == 1.0
    ramp = torch.linspace(0, 1, SIZE).expand(SIZE, SIZE)
    assert best_iou(ramp, mask) < 0.5


def test_recorded_masks_are_means_over_steps_and_blocks():
    recorder = MaskRecorder(1)
    row = (Row(0, 0),)
    for step, masks in enumerate((torch.ones(1, 1, 16), torch.zeros(1, 1, 16))):
        recorder.begin()
        recorder.see(View("a", (4, 4), row, ((True,),), masks.device, step), masks, masks)
    recorder.see(View("b", (2, 2), row, ((True,),), masks.device), torch.ones(1, 1, 4), None)
    recorder.end()
    assert torch.allclose(recorder.mean("masks"), torch.full((1, 1, 4, 4), 0.75))
    assert torch.allclose(recorder.mean("masks", blocks=["a"]), torch.full((1, 1, 4, 4), 0.5))


def test_an_overlay_colours_the_mask_and_greys_the_rest():
    from PIL import Image

    image = Image.new("RGB", (8, 8), (0, 200, 0))
    mask = torch.zeros(1, 8, 8)
    mask[..., :4] = 1
    shown = np.asarray(overlay(image, mask))
    assert len(set(shown[0, -1])) == 1  # grey
    assert shown[0, 0, 1] > shown[0, 0, 2]  # still green
