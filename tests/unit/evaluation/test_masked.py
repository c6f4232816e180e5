"""Object, background, drift and masks, each apart: on pictures where the right answer is known."""

import math

import pytest
import torch

from lib_persres.evaluation.scores.masked import (
    MEAN_COLOUR,
    auc,
    background_copied,
    background_distance,
    drift,
    grow,
    iou,
    object_alignment,
    object_only,
    to_images,
    to_pictures,
)


def pixels(images):
    """An embedder that keeps everything: the pixels, centred on the mean colour."""
    return (to_pictures(images) - torch.tensor(MEAN_COLOUR).view(1, 3, 1, 1)).flatten(1)


@pytest.fixture
def scene():
    """Two pictures with the same object (left) and other backgrounds; a third one with its own object."""
    generator = torch.Generator().manual_seed(0)
    thing, other, beach, snow = torch.rand(4, 3, 32, 32, generator=generator)
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[6:26, 4:14] = True
    pictures = torch.stack(
        [torch.where(mask, thing, beach), torch.where(mask, thing, snow), torch.where(mask, other, beach)]
    )
    return to_pictures(to_images(pictures)), mask.expand(3, -1, -1).clone()


def test_the_object_alone_has_the_mean_colour_around_it(scene):
    pictures, masks = scene
    alone = object_only(pictures, masks)
    assert torch.equal(alone[0][:, masks[0]], pictures[0][:, masks[0]])
    assert torch.equal(alone[0][:, 0, 0], torch.tensor(MEAN_COLOUR))
    with pytest.raises(ValueError, match="masks"):
        object_only(pictures, masks.float())


def test_object_alignment_sees_the_object_and_not_the_background(scene):
    pictures, masks = scene
    found = object_alignment(pixels, (pictures, masks), (pictures[:1], masks[:1]))
    assert found[0] == pytest.approx(1, abs=1e-4) and found[1] == pytest.approx(1, abs=1e-4) and found[2] < 0.5
    masks[1] = False
    assert object_alignment(pixels, (pictures, masks), (pictures[:1], masks[:1]))[1].isnan()


def test_copied_backgrounds_are_seen_whatever_the_object(scene):
    pictures, masks = scene
    found = background_copied(pixels, (pictures, masks), (pictures[:1], masks[:1]))
    assert found[0] == pytest.approx(1, abs=1e-4) and found[1] < 0.5 and found[2] == pytest.approx(1, abs=1e-4)


def test_background_distance_is_in_grey_levels_over_the_pixels_outside_every_thing():
    base = torch.full((2, 3, 32, 32), 0.5)
    things = torch.zeros(2, 32, 32, dtype=torch.bool)
    things[:, 10:20, 10:20] = True
    other = base.clone()
    other[0] += 10 / 255
    other[:, :, 6:24, 6:24] = 1.0  # the thing and the 4 pixels around it
    assert background_distance(other, base, things).tolist() == pytest.approx([10, 0], abs=1e-3)
    things[1] = True
    assert background_distance(other, base, things)[1].isnan()


def test_growing_reaches_so_many_pixels_on_every_side():
    mask = torch.zeros(1, 9, 9, dtype=torch.bool)
    mask[0, 4, 4] = True
    assert grow(mask, 2).sum() == 25 and grow(mask, 0).equal(mask)


def test_drift_is_0_where_nothing_changed():
    base = torch.rand(2, 3, 8, 8)
    assert drift(base, base).tolist() == [0, 0]
    assert drift(base + 2 / 255, base).tolist() == pytest.approx([2, 2], abs=1e-4)
    with pytest.raises(ValueError, match="base"):
        drift(base, base[:1])


def test_iou_of_known_masks_also_at_another_size():
    truth = torch.zeros(4, 32, 32, dtype=torch.bool)
    truth[:3, :16] = True
    masks = torch.zeros(4, 32, 32)
    masks[0, :16], masks[1, 8:24], masks[2, 16:] = 1, 1, 1
    found = list(map(iou, masks, truth))
    assert found[:3] == pytest.approx([1, 1 / 3, 0], abs=1e-5) and math.isnan(found[3])
    assert iou(masks[0, ::4, ::4], truth[0]) > 0.9
    # a median mask, half of the picture, against an object of an eighth: at most a quarter
    small = torch.zeros(32, 32, dtype=torch.bool)
    small[:4] = True
    assert iou(masks[0], small) == pytest.approx(0.25, abs=1e-5)


def test_auc_of_known_shares_whatever_the_masks_size():
    truth = torch.zeros(5, 32, 32, dtype=torch.bool)
    truth[:4, :4] = True
    shares = torch.zeros(5, 32, 32)
    shares[0, :16] = 1  # a median mask over the thing: of the 28 rows beside it 12 are tied, 16 below
    shares[1, :4] = 0.1  # faint, but nowhere else
    shares[2, 4:] = 1
    found = list(map(auc, shares, truth))
    assert found[:4] == pytest.approx([(16 + 12 / 2) / 28, 1, 0, 0.5], abs=1e-5) and math.isnan(found[4])
    assert math.isnan(auc(shares[0], torch.ones(32, 32, dtype=torch.bool)))
    pairs = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(64).view(8, 8) % 3 == 0
    inside, outside = pairs[0][pairs[1]], pairs[0][~pairs[1]]
    longhand = (inside[:, None] > outside[None]).double().mean()
    assert auc(*pairs) == pytest.approx(float(longhand), abs=1e-5)
