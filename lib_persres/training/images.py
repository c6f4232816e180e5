"""The photos of a concept: read from files of any kind, and cut into square views."""

from __future__ import annotations

import hashlib
import math
import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..errors import PersresError
from .pictures.decode import MOST_KEPT, decode
from .pictures.files import read, refuse_unusable, status
from .pictures.folders import listing, read_folder

MOST_TOGETHER = 1 << 28
"""Pixels that are kept of all photos together, at 4 bytes each: a gibibyte."""
SMALLEST_CROP = 0.8
"""The side of the smallest random crop, as a part of the image's short side."""
NAMED = 3
"""As many photos are named in a remark that is true of several."""


@dataclass(frozen=True)
class Photo:
    """A photo as the eye sees it, and the hash of its file."""

    image: Image.Image
    """Mode RGB, sRGB, upright, transparent parts white."""
    path: Path
    sha256: str
    remark: str = ""
    """What there is to say of it, without its name; see `remarks`."""


def load_images(
    paths_or_folder: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    min_side: int = 32,
    max_short_side: int | None = 1536,
    limit: int = 1000,
    beside: int = 0,
    tell: Callable[[str], None] = lambda sentence: None,
) -> list[Photo]:
    """Read photos from a folder (its image files by name, no subfolders), from one file, or from a list.

    An image with a side under `min_side` pixels is refused. One whose short side is over `max_short_side` is
    scaled down to it (None: keep all pixels), further where together they would take more than MOST_TOGETHER. A file
    that is given twice stays twice. Every file that cannot be used raises a PersresError that names it.

    beside: so many other photos share the memory. tell: called with a sentence for what is passed over or not as it
    should be.
    """
    paths = list_files(paths_or_folder, tell)
    if len(paths) > limit:
        raise PersresError(f"{len(paths)} images were given, but at most {limit} are allowed; choose fewer.")
    photos = [
        load_photo(path, among=len(paths) + beside, min_side=min_side, max_short_side=max_short_side) for path in paths
    ]
    for sentence in remarks([(photo.path.name, photo.remark) for photo in photos]):
        tell(sentence)
    return photos


def load_photo(
    path: str | os.PathLike[str],
    called: str | None = None,
    *,
    among: int = 1,
    min_side: int = 32,
    max_short_side: int | None = 1536,
) -> Photo:
    """One photo. called: what sentences call it (default: its path). among: so many share the memory."""
    path = Path(path)
    called = str(path) if called is None else called
    data = read(path, called)
    kept = min(MOST_KEPT, MOST_TOGETHER // among)
    found = decode(data, called, min_side=min_side, max_short_side=max_short_side, most_kept=kept)
    return Photo(found.image, path, hashlib.sha256(data).hexdigest(), found.remark)


def remarks(of: Sequence[tuple[str, str]]) -> list[str]:
    """(name, remark) of each photo -> a sentence for each remark."""
    together: dict[str, list[str]] = {}
    for name, remark in of:
        if remark:
            together.setdefault(remark, []).append(name[:60])
    return [
        str(PersresError(f"{remark}: {', '.join(names[:NAMED])}{_more(len(names) - NAMED)}."))
        for remark, names in together.items()
    ]


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder by name, without its subfolders. Raises OSError."""
    return listing(folder, subfolders=False).images


def crop_views(image: Image.Image, resolution: int, flips: bool = False, crops: int = 0, seed: int = 0) -> torch.Tensor:
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
    image = image if image.mode == "RGB" else image.convert("RGB")
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
        square = image.resize((resolution, resolution), Image.Resampling.LANCZOS, box=box)
        view = torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 127.5 - 1
        views.append(view)
        if flips:
            views.append(view.flip(-1))
    return torch.stack(views)


def list_files(
    source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    tell: Callable[[str], None] = lambda sentence: None,
) -> list[Path]:
    """The files that `load_images` reads, looked at but not read."""
    if not isinstance(source, (str, os.PathLike)):
        paths = [Path(path) for path in source]
        if not paths:
            raise PersresError("No images were given; choose at least one photo of the concept.")
        for path in paths:
            refuse_unusable(status(path, str(path)), str(path))
        return paths
    if not str(source).strip():
        raise PersresError("No folder of images was given; name the folder with the photos of the concept.")
    path = Path(source)
    found = status(path, str(path))
    if found is None:
        raise PersresError(f"{path} does not exist; name a folder with photos of the concept.")
    if not path.is_dir():
        refuse_unusable(found, str(path))
        return [path]
    folder = read_folder(path)
    for sentence in folder.notes():
        tell(sentence)
    return folder.images
