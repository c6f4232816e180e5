"""Photos on their way into a training: limits, base64, folders of the server, and what a broken one is called."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...errors import PersresError, readable
from ...training.images import Photo, load_photo, remarks
from ...training.pictures.files import MOST_BYTES, read, refuse_unusable, status, too_large
from ...training.pictures.folders import read_folder

MOST = 200
MOST_TOGETHER = 512 << 20
"""Bytes of a training's files."""
LONGEST_NAME = 100

Source = bytes | Path
"""A picture's file: its bytes, or where it lies, to be read one after the other."""


def check_count(count: int, of_class: bool = False) -> None:
    """of_class: they are pictures of the class, not of the concept."""
    if count == 0:
        wanted = "pictures of other things of the class" if of_class else "3 to 10 photos of the concept"
        raise PersresError(f"No images were given; choose {wanted}.")
    if count > MOST:
        enough = "" if of_class else ", and 3 to 10 are enough"
        raise PersresError(f"{count} images were given, but at most {MOST} are allowed{enough}.")


def check_sizes(images: Sequence[tuple[str, Source]]) -> None:
    together = 0
    for name, source in images:
        name = name_of(name)
        if isinstance(source, Path):
            found = status(source, name)
            refuse_unusable(found, name)
            assert found is not None  # it is refused
            size = found.st_size
        else:
            size = len(source)
        if size > MOST_BYTES:
            raise PersresError(too_large(name, size))
        together += size
    if together > MOST_TOGETHER:
        raise PersresError(f"The images have more than {MOST_TOGETHER >> 20} MiB together; give fewer or smaller ones.")


def name_of(name: object) -> str:
    """The name of a picture as sentences and records have it: of one line, of any system."""
    return readable(str(name), LONGEST_NAME)


def from_base64(entries, of_class: bool = False) -> list[tuple[str, Source]]:
    """Images of a request: base64 texts, with or without `data:image/png;base64,`, or {"name", "data"}."""
    if not isinstance(entries, list):
        raise PersresError("images must be a list of images in base64.")
    check_count(len(entries), of_class)
    images: list[tuple[str, Source]] = []
    together = 0
    for number, entry in enumerate(entries, 1):
        name = f"number {number}"
        if isinstance(entry, dict):
            given, entry = entry.get("name"), entry.get("data")
            name = name_of(given) if isinstance(given, str) and given.strip() else name
        if not isinstance(entry, str):
            raise PersresError(f"The image {name} is no text in base64.")
        if len(entry) > MOST_BYTES * 3 // 2:
            raise PersresError(too_large(name, len(entry) * 3 // 4))
        if entry.startswith("data:"):
            entry = entry.partition(",")[2]
        try:
            data = base64.b64decode("".join(entry.split()), validate=True)  # some encoders write lines
        except (binascii.Error, ValueError) as error:
            raise PersresError(f"The image {name} is not in base64.") from error
        together += len(data)
        if together > MOST_TOGETHER:  # now, so that no more than is allowed lies in memory
            raise PersresError(f"The images have more than {MOST_TOGETHER >> 20} MiB together; give fewer of them.")
        images.append((name, data))
    return images


def from_folder(folder, allowed: Iterable[Path], of_class: bool = False) -> tuple[list[tuple[str, Source]], list[str]]:
    """The images of a folder of this machine, by name, and sentences on what is passed over.

    PersresError for a folder outside of the allowed ones.
    """
    if not isinstance(folder, str) or not folder.strip() or "\0" in folder:
        raise PersresError("folder must be the path of a folder with photos.")
    path = Path(folder.strip())
    inside = [real for root in allowed if (real := _resolved(Path(root)))]
    # asked before whether it exists, which is nobody's business outside of them
    if not path.is_absolute() or not _is_inside(path, inside):
        raise PersresError(
            f"The folder {folder[:150]} is not one that a training may read: give the full path of one in the "
            "WebUI's data folder, or name it in Settings > Personalized Residuals."
        )
    if status(path, f"The folder {folder[:150]}") is None:
        raise PersresError(f"There is no folder {folder[:150]}.")
    found = read_folder(path)
    check_count(len(found.images), of_class)
    for entry in found.images:
        if not _is_inside(entry, inside):
            raise PersresError(f"{entry} is a link out of the allowed folders.")
    return [(entry.name, entry) for entry in found.images], found.notes()


def _is_inside(path: Path, roots: Sequence[Path]) -> bool:
    real = _resolved(path)
    return real is not None and any(real.is_relative_to(root) for root in roots)


def _resolved(path: Path) -> Path | None:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, or no name that a file can have
        return None


def keep(path: Path, name: str, source: Source) -> None:
    """Write a picture's file where the training keeps it. Raises OSError where that is not possible."""
    path.write_bytes(read(source, name_of(name)) if isinstance(source, Path) else source)


def check(paths: Sequence[Path], names: Sequence[str]) -> list[str]:
    """Decode each of the stored files once, keeping none; sentences on what is not as it should be."""
    return remarks([(name_of(name), load_photo(path, name_of(name)).remark) for path, name in zip(paths, names)])


def load(paths: Sequence[Path], names: Sequence[str], beside: int = 0) -> list[Photo]:
    """The photos of stored files; sentences call each by the name that the user knows. beside: see `load_images`."""
    among = len(paths) + beside
    return [load_photo(path, name_of(name), among=among) for path, name in zip(paths, names)]
