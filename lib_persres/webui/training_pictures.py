"""The images chosen for a concept: their bytes for a training, and how the model will see them."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..errors import PersresError
from ..training.images import crop_views, image_files, load_images
from .training.photos import check_count, check_sizes

SHOWN, VIEWS = 24, 8
"""As many images, and small views of each, are drawn on the page."""
LARGE, SMALL = 144, 44


def uploaded(text: str | None, folder: Path) -> list[str]:
    """The files that the page says it uploaded into this folder; it may name no others."""
    try:
        found = json.loads(text or "[]")
        if not isinstance(found, list):
            raise TypeError("no list")
        inside = [isinstance(path, str) and Path(path).resolve().is_relative_to(folder.resolve()) for path in found]
    except (TypeError, ValueError, OSError, RuntimeError) as error:  # RuntimeError: links in a circle, too deep a list
        raise PersresError("The page sent what is no list of images: reload it.") from error
    if not all(inside):
        raise PersresError("The page named a file that was not uploaded: reload it and drop the images again.")
    return found


def in_folder(folder: str) -> list[str]:
    """The image files of a folder by name; PersresError where there are none."""
    try:
        path = Path(folder.strip()).expanduser()
        is_there = path.is_dir()
    except (OSError, ValueError, RuntimeError):  # too long, no text, links in a circle, nobody's home
        path, is_there = folder.strip()[:200], False
    if not is_there:
        raise PersresError(f"{path} is not a folder on the WebUI's machine: name one with photos of the concept.")
    try:
        found = [str(entry) for entry in image_files(path)]
    except OSError as error:
        raise PersresError(f"The folder {path} cannot be read ({error.strerror or error}).") from error
    if not found:
        raise PersresError(f"The folder {path} contains no images: put photos of the concept there (PNG, JPEG, WebP).")
    return found


def contents(paths: Sequence[str], of_class: bool = False) -> list[tuple[str, bytes]]:
    """(name, bytes) of each file, as a training wants them. of_class: pictures of the class, see `check_count`."""
    check_count(len(paths), of_class)
    found = []
    for path in paths:
        try:
            found.append((Path(path).name, Path(path).read_bytes()))
        except OSError as error:
            raise PersresError(
                f"The image {Path(path).name} cannot be read ({error.strerror or error}): add it again."
            ) from error
        check_sizes(found)  # each time, so that no more than is allowed lies in memory
    return found


def gallery(
    paths: Sequence[str],
    resolution: int,
    crops: int,
    flips: bool,
    seed: int,
    removable: bool = True,
    of_class: bool = False,
) -> str:
    """HTML: the centre of each image as the model will see it, its other views in small, and what is wrong with it.

    removable: each has a button, which javascript/persres_images.js answers.
    """
    cards = [
        _card(path, resolution, crops, flips, seed + index, removable) for index, path in enumerate(paths[:SHOWN])
    ]
    more = len(paths) - len(cards)
    if more > 0:
        cards.append(f'<div class="persres-more">and {more} more</div>')
    if not cards:
        return ""
    views = (1 + crops) * (1 + flips)
    note = f"{len(paths)} image{'s' * (len(paths) != 1)}, {views} view{'s' * (views != 1)} of each"
    if not of_class and not 3 <= len(paths) <= 10:
        note += "; 3 to 10 images work best"
    return f'<div class="persres-images">{"".join(cards)}</div><p class="persres-note">{note}</p>'


def _card(path: str, resolution: int, crops: int, flips: bool, seed: int, removable: bool) -> str:
    name = html.escape(Path(path).name, quote=True)
    remove = (
        f'<button type="button" class="persres-remove" data-key="{html.escape(path, quote=True)}"'
        f' title="Remove {name}" aria-label="Remove {name}">×</button>'
        if removable
        else ""
    )
    try:
        photo = load_images([path])[0].image
        views = crop_views(photo, resolution, flips, min(crops, VIEWS), seed)  # the first ones are the same
    except PersresError as error:
        text = html.escape(str(error).replace(str(path), Path(path).name))
        return f'<div class="persres-image persres-wrong">{remove}<p>{text}</p></div>'
    pictures = [
        Image.fromarray(((view.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()) for view in views
    ]
    large = f'<img class="persres-view" alt="{name}, its centre" src="{_data(pictures[0], LARGE)}">'
    small = "".join(f'<img alt="{name}, another view" src="{_data(each, SMALL)}">' for each in pictures[1 : 1 + VIEWS])
    return (
        f'<div class="persres-image">{remove}{large}<div class="persres-views">{small}</div>'
        f'<p title="{name}">{name} <span>{photo.width}×{photo.height}</span></p></div>'
    )


def _data(picture: Image.Image, side: int) -> str:
    """A data URI; twice the side in CSS pixels, so that it is sharp on fine screens."""
    picture = picture.resize((2 * side, 2 * side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
