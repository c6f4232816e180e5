import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from lib_persres.errors import PersresError
from lib_persres.training.images import crop_views, load_images


def ramp(width=64, height=48):
    """An RGB image in which every column and row differs."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 3, y * 4, (x + y) * 2], -1).clip(0, 255).astype(np.uint8))


def load_one(image, path, **options):
    image.save(path, **options)
    (photo,) = load_images(path)
    assert photo.image.mode == "RGB" and photo.path == path
    return np.asarray(photo.image)


def refused(source, **options):
    with pytest.raises(PersresError) as error:
        load_images(source, **options)
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text
    return text


def test_a_folder_is_read_sorted_and_other_files_are_passed_over(tmp_path):
    for name in ("b.png", "a.JPG", "c.webp", "._a.jpg"):
        ramp().save(tmp_path / name, format="PNG")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "sub.png").mkdir()
    assert [photo.path.name for photo in load_images(str(tmp_path))] == ["a.JPG", "b.png", "c.webp"]


def test_a_list_keeps_its_order_and_duplicates(tmp_path):
    ramp().save(tmp_path / "a.png")
    ramp(80, 80).save(tmp_path / "b.dat", format="PNG")
    paths = [tmp_path / "b.dat", str(tmp_path / "a.png"), tmp_path / "b.dat"]
    photos = load_images(paths)
    assert [photo.image.size for photo in photos] == [(80, 80), (64, 48), (80, 80)]
    assert photos[0].sha256 == photos[2].sha256 == hashlib.sha256((tmp_path / "b.dat").read_bytes()).hexdigest()


def test_rgb_pixels_arrive_unchanged(tmp_path):
    assert (load_one(ramp(), tmp_path / "a.png") == np.asarray(ramp())).all()


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    seen = load_one(ramp(), tmp_path / "a.png", exif=exif)
    assert (seen == np.rot90(np.asarray(ramp()), -1)).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_become_white(tmp_path, mode):
    image = ramp().convert(mode)
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 32, 48))
    image.putalpha(alpha)
    seen = load_one(image, tmp_path / "a.png")
    assert (seen[:, :32] == 255).all()
    assert (seen[:, 32:] == np.asarray(ramp().convert(mode[:-1]).convert("RGB"))[:, 32:]).all()


def test_half_transparency_is_half_white(tmp_path):
    seen = load_one(Image.new("RGBA", (40, 40), (0, 0, 0, 128)), tmp_path / "a.png")
    assert abs(int(seen[0, 0, 0]) - 127) <= 1


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_a_transparent_colour_becomes_white(tmp_path, mode):
    image = Image.new(mode, (40, 40), 0)
    image.paste(1 if mode == "P" else "red", (20, 0, 40, 40))
    if mode == "P":
        image.putpalette([0, 0, 0, 200, 10, 10])
    seen = load_one(image, tmp_path / "a.png", transparency=(0, 0, 0) if mode == "RGB" else 0)
    assert (seen[:, :20] == 255).all() and (seen[:, 20:] < 255).any(-1).all()


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_modes_of_few_colours_keep_them(tmp_path, mode):
    image = ramp().convert(mode)
    assert (load_one(image, tmp_path / "a.png") == np.asarray(image.convert("RGB"))).all()


def test_cmyk_keeps_its_colours(tmp_path):
    seen = load_one(Image.new("RGB", (40, 40), (200, 30, 60)).convert("CMYK"), tmp_path / "a.tif")
    assert np.abs(seen[0, 0].astype(int) - (200, 30, 60)).max() <= 2


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, suffix):
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    seen = load_one(Image.fromarray(values), tmp_path / f"a.{suffix}")
    assert np.abs(seen[..., 0] - values / 257).max() <= 0.5 and (seen[..., 0] == seen[..., 2]).all()


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_floats_are_scaled_by_their_range(tmp_path, top):
    values = np.linspace(0, top, 64 * 64).reshape(64, 64).astype(np.float32)
    seen = load_one(Image.fromarray(values), tmp_path / "a.tif")
    assert np.abs(seen[..., 0] - values * 255 / top).max() <= 0.51


def test_floats_that_are_not_finite_are_refused(tmp_path):
    Image.fromarray(np.full((40, 40), np.nan, np.float32)).save(tmp_path / "a.tif")
    assert "not finite" in refused(tmp_path)


def test_camera_sizes_are_scaled_down_unless_told_not_to(tmp_path):
    ramp(80, 40).save(tmp_path / "a.png")
    assert load_images(tmp_path, max_short_side=35)[0].image.size == (70, 35)
    assert load_images(tmp_path, max_short_side=None)[0].image.size == (80, 40)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "cut"])
def test_a_broken_image_is_named(tmp_path, content):
    ramp().save(tmp_path / "good.png")
    if content == "cut":
        content = (tmp_path / "good.png").read_bytes()[:-200]
    (tmp_path / "broken.png").write_bytes(content)
    assert "broken.png cannot be read" in refused(tmp_path)


def test_a_tiny_image_is_named_with_its_size(tmp_path):
    ramp(100, 31).save(tmp_path / "tiny.png")
    assert "tiny.png is too small (100×31 pixels); each side needs 32" in refused(tmp_path)
    assert load_images(tmp_path, min_side=31)


def test_sources_without_images_are_refused_clearly(tmp_path):
    assert "does not exist" in refused(tmp_path / "nowhere")
    assert "does not exist" in refused("a\0b")
    assert "contains no images" in refused(tmp_path)
    assert "No images were given" in refused([])
    assert "No folder of images" in refused(" ")
    assert "is a folder" in refused([tmp_path])
    assert "does not exist" in refused([tmp_path / "a.png"])


def test_too_many_images_are_refused_before_any_is_read(tmp_path):
    for k in range(3):
        (tmp_path / f"{k}.png").write_bytes(b"never read")
    assert "3 images were given, but at most 2" in refused(tmp_path, limit=2)


def test_views_have_the_promised_shape_range_and_type():
    views = crop_views(ramp(), 16, flips=True, crops=3, seed=1)
    assert views.shape == (8, 3, 16, 16) and views.dtype == torch.float32
    assert views.min() >= -1 and views.max() <= 1 and views.min() < 0 < views.max()


def test_black_and_white_are_the_ends_of_the_range():
    for colour, value in (("black", -1.0), ("white", 1.0)):
        assert (crop_views(Image.new("RGB", (40, 50), colour), 8) == value).all()


@pytest.mark.parametrize(("size", "box"), [((64, 48), (8, 0, 56, 48)), ((48, 60), (0, 6, 48, 54))])
def test_the_first_view_is_the_centre_square(size, box):
    (view,) = crop_views(ramp(*size), 48)
    expected = np.asarray(ramp(*size).crop(box))
    assert (((view + 1) * 127.5).round().permute(1, 2, 0).numpy() == expected).all()


def test_each_mirror_image_follows_its_view():
    views = crop_views(ramp(), 16, flips=True, crops=2, seed=3)
    assert torch.equal(views[1::2], views[::2].flip(-1))
    assert torch.equal(views[::2], crop_views(ramp(), 16, flips=False, crops=2, seed=3))


def test_views_repeat_with_their_seed_and_differ_between_seeds():
    views = [crop_views(ramp(), 16, crops=4, seed=seed) for seed in (5, 5, 6)]
    assert torch.equal(views[0], views[1])
    assert torch.equal(views[0][0], views[2][0]) and not torch.equal(views[0][1:], views[2][1:])


def test_random_crops_keep_most_of_the_short_side_and_reach_the_edges():
    # A column's red value is its x, so the spread of red shows how wide a crop is and where it lies.
    width = 200
    red = np.tile(np.arange(width, dtype=np.uint8), (100, 1))
    image = Image.fromarray(np.stack([red] * 3, -1))
    views = (crop_views(image, 100, crops=60, seed=0)[1:, 0] + 1) * 127.5
    left, right = views.amin((1, 2)), views.amax((1, 2))
    assert (right - left).min() >= 78 and (right - left).max() <= 100
    assert left.min() < 20 and right.max() > 180


def test_impossible_views_are_refused():
    for arguments in ({"resolution": 0}, {"resolution": 8, "crops": -1}):
        with pytest.raises(PersresError):
            crop_views(ramp(), **arguments)
