"""The images chosen for a concept: their files for a training, and how the model will see them."""

from __future__ import annotations

import base64
import contextlib
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ...errors import PersresError
from ...training.images import crop_views, load_photo, remarks
from ...training.pictures.files import reason, status
from ...training.pictures.folders import listing, read_folder
from ..training.photos import Source, check_count, check_sizes, name_of

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
    except (TypeError, ValueError, OSError, RuntimeError) as error:  # nested too deep, or a loop of links
        raise PersresError("The page sent what is no list of images: reload it.") from error
    if not all(inside):
        raise PersresError("The page named a file that was not uploaded: reload it and drop the images again.")
    return found


def in_folder(folder: str) -> list[str]:
    """The image files of a folder by name; PersresError where there are none."""
    try:
        path = Path(folder.strip()).expanduser()
    except RuntimeError as error:
        raise PersresError(f"{folder.strip()} is no folder: its user is not known here ({reason(error)}).") from error
    if status(path, f"The folder {path}") is None or not path.is_dir():
        raise PersresError(f"{path} is not a folder on the WebUI's machine: name one with photos of the concept.")
    return [str(entry) for entry in read_folder(path).images]


def passed_over(*folders: str) -> list[str]:
    """Sentences on what is not read in these folders; an empty name is none."""
    notes = []
    for folder in filter(None, (folder.strip() for folder in folders)):
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # it went away, which the images say
            notes += listing(Path(folder).expanduser()).notes()
    return notes


def contents(paths: Sequence[str], of_class: bool = False) -> list[tuple[str, Source]]:
    """(name, where it lies) of each file, as a training wants them. of_class: see `check_count`."""
    check_count(len(paths), of_class)
    found: list[tuple[str, Source]] = [(name_of(Path(path).name), Path(path)) for path in paths]
    check_sizes(found)
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

    removable: each has a button, which javascript/persres_images.js answers; else they are those of a folder, and what
    was passed over there is told.
    """
    cards, told = [], []
    for index, path in enumerate(paths[:SHOWN]):
        card, remark = _card(path, resolution, crops, flips, seed + index, removable)
        cards.append(card)
        told.append((name_of(Path(path).name), remark))
    more = len(paths) - len(cards)
    if more > 0:
        cards.append(f'<div class="persres-more">and {more} more</div>')
    if not cards:
        return ""
    views = (1 + crops) * (1 + flips)
    note = f"{len(paths)} image{'s' * (len(paths) != 1)}, {views} view{'s' * (views != 1)} of each"
    if not of_class and not 3 <= len(paths) <= 10:
        note += "; 3 to 10 images work best"
    notes = [note, *remarks(told), *([] if removable else passed_over(str(Path(paths[0]).parent)))]
    below = "".join(f'<p class="persres-note">{html.escape(text)}</p>' for text in notes)
    return f'<div class="persres-images">{"".join(cards)}</div>{below}'


def _card(path: str, resolution: int, crops: int, flips: bool, seed: int, removable: bool) -> tuple[str, str]:
    """A card, and the remark on its photo."""
    name = html.escape(name_of(Path(path).name), quote=True)
    key = html.escape(path.encode("utf-8", "replace").decode(), quote=True)  # no page can hold a lone surrogate
    remove = (
        f'<button type="button" class="persres-remove" data-key="{key}"'
        f' title="Remove {name}" aria-label="Remove {name}">×</button>'
        if removable
        else ""
    )
    try:
        found = load_photo(path, name_of(Path(path).name))
        photo = found.image
        views = crop_views(photo, resolution, flips, min(crops, VIEWS), seed)  # the first ones are the same
    except PersresError as error:
        return f'<div class="persres-image persres-wrong">{remove}<p>{html.escape(str(error))}</p></div>', ""
    pictures = [Image.fromarray(((view.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()) for view in views]
    large = f'<img class="persres-view" alt="{name}, its centre" src="{_data(pictures[0], LARGE)}">'
    small = "".join(f'<img alt="{name}, another view" src="{_data(each, SMALL)}">' for each in pictures[1 : 1 + VIEWS])
    card = (
        f'<div class="persres-image">{remove}{large}<div class="persres-views">{small}</div>'
        f'<p title="{name}">{name} <span>{photo.width}×{photo.height}</span></p></div>'
    )
    return card, found.remark


def _data(picture: Image.Image, side: int) -> str:
    """A data URI; twice the side in CSS pixels, so that it is sharp on fine screens."""
    picture = picture.resize((2 * side, 2 * side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
