"""The photos of a concept: read from files of any kind, and cut into square views."""

from __future__ import annotations

import hashlib
import io
import math
import os
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from ..errors import PersresError

# HEIC is here although Pillow reads it only with a plugin: such a photo is reported, not passed over.
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"),
    *(".heic", ".heif", ".jp2", ".tga", ".ppm", ".pgm"),
)
SMALLEST_CROP = 0.8
"""The side of the smallest random crop, as a part of the image's short side."""


@dataclass(frozen=True)
class Photo:
    """A photo as the eye sees it, and the hash of its file."""

    image: Image.Image
    """Mode RGB, upright, transparent parts white."""
    path: Path
    sha256: str


def load_images(
    paths_or_folder: str | os.PathLike | Iterable[str | os.PathLike],
    *,
    min_side: int = 32,
    max_short_side: int | None = 1536,
    limit: int = 1000,
) -> list[Photo]:
    """Read photos from a folder (its image files by name, no subfolders), from one file, or from a list.

    An image with a side under `min_side` pixels is refused. One whose short side is over `max_short_side` is
    scaled down to it, so that a folder of camera photos fits into memory (None: keep all pixels). A file that
    is given twice stays twice. Every file that cannot be used raises a PersresError that names it.
    """
    paths = _list_files(paths_or_folder)
    if len(paths) > limit:
        raise PersresError(f"{len(paths)} images were given, but at most {limit} are allowed; choose fewer.")
    return [_load(path, min_side, max_short_side) for path in paths]


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder by name, without its subfolders. Raises OSError."""
    return sorted(
        entry
        for entry in folder.iterdir()
        # Names with a leading dot are not photos: macOS leaves "._photo.jpg" about.
        if entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".") and entry.is_file()
    )


def crop_views(
    image: Image.Image, resolution: int, flips: bool = False, crops: int = 0, seed: int = 0
) -> torch.Tensor:
    """Square views of an RGB image: (n, 3, resolution, resolution), float32 in [-1, 1].

    n is (1 + crops)·(1 + flips). The first view is the centre square; `crops` random squares follow, with
    sides from 0.8 to 1 times the image's short side. With `flips`, the mirror image of each view comes right
    after it. The same seed gives the same views.
    """
    if resolution < 1 or crops < 0:
        raise PersresError(
            f"Views of {resolution} pixels and {crops} random crops are not possible; "
            "the resolution must be 1 or more, the crops 0 or more."
        )
    generator = random.Random(seed)
    width, height = image.size
    short = min(width, height)
    boxes = [((width - short) // 2, (height - short) // 2, short)]
    for _ in range(crops):
        share = SMALLEST_CROP + (1 - SMALLEST_CROP) * generator.random()
        side = min(short, math.ceil(share * short))
        left = int(generator.random() * (width - side + 1))
        top = int(generator.random() * (height - side + 1))
        boxes.append((left, top, side))

    views = []
    for left, top, side in boxes:
        box = (left, top, left + side, top + side)
        square = image.convert("RGB").resize((resolution, resolution), Image.Resampling.LANCZOS, box=box)
        view = torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 127.5 - 1
        views.append(view)
        if flips:
            views.append(view.flip(-1))
    return torch.stack(views)


def _list_files(source: str | os.PathLike | Iterable[str | os.PathLike]) -> list[Path]:
    if not isinstance(source, (str, os.PathLike)):
        paths = [Path(path) for path in source]
        if not paths:
            raise PersresError("No images were given; choose at least one photo of the concept.")
        for path in paths:
            if not path.is_file():
                what = "is a folder, not an image" if path.is_dir() else "does not exist"
                raise PersresError(f"{path} {what}; give the paths of image files.")
        return paths
    if not str(source).strip():
        raise PersresError("No folder of images was given; name the folder with the photos of the concept.")
    path = Path(source)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise PersresError(f"{path} does not exist; name a folder with photos of the concept.")
    try:
        found = image_files(path)
    except OSError as error:
        raise PersresError(f"The folder {path} cannot be read ({error.strerror or error}).") from error
    if not found:
        raise PersresError(
            f"The folder {path} contains no images; put photos of the concept there (PNG, JPEG, WebP)."
        )
    return found


def _load(path: Path, min_side: int, max_short_side: int | None) -> Photo:
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as opened:
            width, height = opened.size
            image = _to_rgb(ImageOps.exif_transpose(opened)) if min(width, height) >= min_side else None
    except (
        Exception
    ) as error:  # what a decoder raises on a broken file is not limited to any family of exceptions
        raise PersresError(
            f"The image {path} cannot be read ({_reason(error)}); replace or remove it."
        ) from error
    if image is None:
        raise PersresError(
            f"The image {path} is too small ({width}×{height} pixels); each side needs {min_side} or more."
        )
    if max_short_side is not None and min(image.size) > max_short_side:
        scale = max_short_side / min(image.size)
        size = tuple(max(max_short_side, round(side * scale)) for side in image.size)
        image = image.resize(size, Image.Resampling.LANCZOS)
    return Photo(image, path, hashlib.sha256(data).hexdigest())


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image format known here"
    # Some of Pillow's and Python's texts span lines or are empty.
    return " ".join(str(error).split())[:120].rstrip(".") or type(error).__name__


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode: 16 bits and floats scaled to 8, transparency composited over white."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_bytes(image)).convert("RGB")
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        if image.mode == "La":  # the premultiplied modes convert only to their own plain form
            image = image.convert("LA")
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    # A copy in any case: the file behind `image` is closed soon.
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _to_bytes(image: Image.Image) -> np.ndarray:
    """Grey values of 16 or 32 bits, or floats, as uint8 (h, w); Pillow's own conversion clips at 255."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite numbers")
    highest = values.max()
    if image.mode == "F":  # floats are 0 to 1 or, if any exceeds 1, 0 to 255
        scaled = values * (255 if highest <= 1 else 1)
    elif image.mode == "I" and highest > 65535:
        scaled = values / 2**23  # signed 32 bits
    else:  # older Pillow opens a 16-bit PNG as mode I
        scaled = values / 257
    return np.rint(scaled).clip(0, 255).astype(np.uint8)
