"""Photos that come as bytes: limits, base64, folders of the server, and what a broken one is called."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...errors import PersresError
from ...training.images import Photo, image_files, load_images

MOST = 200
MOST_BYTES = 32 << 20
MOST_TOGETHER = 512 << 20


def check_count(count: int, of_class: bool = False) -> None:
    """of_class: they are pictures of the class, not of the concept."""
    if count == 0:
        wanted = "pictures of other things of the class" if of_class else "3 to 10 photos of the concept"
        raise PersresError(f"No images were given; choose {wanted}.")
    if count > MOST:
        enough = "" if of_class else ", and 3 to 10 are enough"
        raise PersresError(f"{count} images were given, but at most {MOST} are allowed{enough}.")


def check_sizes(images: Sequence[tuple[str, bytes]]) -> None:
    for name, data in images:
        if len(data) > MOST_BYTES:
            raise PersresError(
                f"The image {name[:100]} has {len(data) >> 20} MiB, but at most {MOST_BYTES >> 20} are allowed; "
                "scale it down."
            )
    if sum(len(data) for _, data in images) > MOST_TOGETHER:
        raise PersresError(f"The images have more than {MOST_TOGETHER >> 20} MiB together; give fewer or smaller ones.")


def from_base64(entries, of_class: bool = False) -> list[tuple[str, bytes]]:
    """Images of a request: base64 texts, with or without `data:image/png;base64,`, or {"name", "data"}."""
    if not isinstance(entries, list):
        raise PersresError("images must be a list of images in base64.")
    check_count(len(entries), of_class)
    images = []
    for number, entry in enumerate(entries, 1):
        name = f"number {number}"
        if isinstance(entry, dict):
            own, entry = entry.get("name"), entry.get("data")
            name = own if isinstance(own, str) and own else name
        if not isinstance(entry, str):
            raise PersresError(f"The image {name[:100]} is no text in base64.")
        if entry.startswith("data:"):
            entry = entry.partition(",")[2]
        if len(entry) > MOST_BYTES * 4 // 3 + 4:
            raise PersresError(f"The image {name[:100]} has more than {MOST_BYTES >> 20} MiB; scale it down.")
        try:
            images.append((name, base64.b64decode(entry, validate=True)))
        except (binascii.Error, ValueError) as error:
            raise PersresError(f"The image {name[:100]} is not in base64.") from error
    return images


def from_folder(folder, allowed: Iterable[Path], of_class: bool = False) -> list[tuple[str, bytes]]:
    """The images of a folder of this machine, by name. PersresError for one outside of the allowed folders."""
    if not isinstance(folder, str) or not folder.strip() or "\0" in folder:
        raise PersresError("folder must be the path of a folder with photos.")
    path = Path(folder.strip())
    inside = [Path(root).resolve() for root in allowed]
    # asked before whether it exists, which is nobody's business outside of them
    if not path.is_absolute() or not any(_is_inside(path, root) for root in inside):
        raise PersresError(
            f"The folder {folder[:200]} is not one that a training may read: give the full path of one in the "
            "WebUI's data folder, or name it in Settings > Personalized Residuals."
        )
    if not os.path.isdir(path):
        raise PersresError(f"There is no folder {folder[:200]}.")
    try:
        paths = image_files(path)
        check_count(len(paths), of_class)
        for entry in paths:
            if not any(_is_inside(entry, root) for root in inside):
                raise PersresError(f"{entry} is a link out of the allowed folders.")
            if entry.stat().st_size > MOST_BYTES:
                raise PersresError(f"{entry} has more than {MOST_BYTES >> 20} MiB; scale it down.")
        return [(entry.name, entry.read_bytes()) for entry in paths]
    except OSError as error:
        raise PersresError(f"The folder {folder[:200]} cannot be read ({error.strerror or error}).") from error


def _is_inside(path: Path, root: Path) -> bool:
    """Whether it leads into the folder; never for links in a circle, and for names that are none."""
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError, ValueError):
        return False


def load(paths: Sequence[Path], names: Sequence[str]) -> list[Photo]:
    """The photos of stored files; sentences call each by the name that the user knows."""
    photos = []
    for path, name in zip(paths, names):
        try:
            if os.path.isfile(path) and path.stat().st_size > MOST_BYTES:
                raise PersresError(f"The image {path} has more than {MOST_BYTES >> 20} MiB now: give it again.")
            photos += load_images(path)
        except PersresError as error:
            raise PersresError(str(error).replace(str(path), name[:100])) from error
    return photos
