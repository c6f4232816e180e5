"""A training on disk: its own folder with the images, the record, the trainer's state and the previews.

A record or a folder is whole or not there, whenever the process dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ...errors import PersresError, readable
from ...training.images import Photo
from ...writing import write_whole
from ..json_file import encodable, read_json
from . import photos
from .record import Record
from .request import Request

NEW, GONE = ".new-", ".gone-"


class JobFolder:
    """<root>/<id>/ of one training."""

    def __init__(self, path: Path):
        self.path = path
        self.id = encodable(path.name)
        self.state = path / "state.pt"
        self.previews = path / "previews"

    @classmethod
    def create(
        cls,
        root: Path,
        request: Request,
        images: Sequence[tuple[str, photos.Source]],
        class_images: Sequence[tuple[str, photos.Source]] = (),
        notes: Sequence[str] = (),
    ) -> JobFolder:
        """Write a new training's folder. PersresError where an image cannot be used or the disk is full."""
        photos.check_count(len(images))
        if class_images:
            request.refuse_class_images()
            photos.check_count(len(class_images), of_class=True)
        photos.check_sizes([*images, *class_images])
        images, class_images = ([(readable(name, 100), data) for name, data in each] for each in (images, class_images))
        identity = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        partial = root / f"{NEW}{identity}"
        folder = cls(partial)
        try:
            told = [*notes, *folder._keep("images", images), *folder._keep("class_images", class_images)]
            names, class_names = ([photos.name_of(name) for name, _ in each] for each in (images, class_images))
            folder.write(Record(request.to_dict(), names, class_names, told, message=" ".join(told)))
            os.replace(partial, root / identity)
        except OSError as error:
            raise PersresError(f"The training cannot be kept in {root}: {error.strerror or error}.") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return cls(root / identity)

    def _keep(self, kind: str, images: Sequence[tuple[str, photos.Source]]) -> list[str]:
        if not images:
            return []
        (self.path / kind).mkdir(parents=True)
        paths = self._image_paths(kind, len(images))
        for path, (name, source) in zip(paths, images):
            photos.keep(path, name, source)
        return photos.check(paths, [name for name, _ in images])

    def _image_paths(self, kind: str, count: int) -> list[Path]:
        return [self.path / kind / f"{number:04d}" for number in range(count)]

    def photos(self, record: Record) -> list[Photo]:
        paths = self._image_paths("images", len(record.images))
        return photos.load(paths, record.images, beside=len(record.class_images))

    def class_photos(self, record: Record) -> list[Photo] | None:
        names = record.class_images
        paths = self._image_paths("class_images", len(names))
        return photos.load(paths, names, beside=len(record.images)) if names else None

    def read(self) -> Record:
        """The record; what is damaged in it and not needed is left out, and its message says so. PersresError else."""
        try:
            if self.path.is_symlink():
                raise PersresError("its folder is a link")
            return Record.from_json(read_json(self.path / "job.json"))
        except (OSError, PersresError) as error:
            reason = "there is no job.json" if isinstance(error, FileNotFoundError) else str(error).rstrip(".")
            raise PersresError(f"The training {self.id[:60]} cannot be read: {reason}.") from error

    def write(self, record: Record) -> None:
        write_whole(self.path / "job.json", json.dumps(asdict(record), indent=1).encode())

    def forget_state(self) -> None:
        """Drop what a training is continued from; it may be as large as several models."""
        with contextlib.suppress(OSError):
            self.state.unlink(missing_ok=True)

    def forget_work(self) -> None:
        """Drop what was learned; the images and the record stay."""
        self.forget_state()
        shutil.rmtree(self.previews, ignore_errors=True)

    def remove(self) -> None:
        gone = self.path.with_name(f"{GONE}{secrets.token_hex(6)}")
        try:
            os.replace(self.path, gone)
        except OSError as error:
            raise PersresError(f"{self.path} cannot be removed: {error.strerror or error}.") from error
        _clear(gone)

    def preview_paths(self) -> list[dict]:
        """{"step", "plain", "lag"} of each preview, in the order of their steps; other files there are none."""
        found = []
        with contextlib.suppress(OSError):
            for plain in self.previews.iterdir():
                name = re.fullmatch(r"([0-9]{1,9})-plain\.png", plain.name)
                lag = plain.with_name(plain.name.replace("plain", "lag"))
                if name and os.path.isfile(plain) and os.path.isfile(lag):
                    found.append({"step": int(name[1]), "plain": str(plain), "lag": str(lag)})
        return sorted(found, key=lambda preview: preview["step"])


def _clear(path: Path) -> None:
    """Remove a folder, a file or a link, never what a link leads to."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def clear_away(root: Path) -> None:
    """Remove what was half made or half removed when a process ended."""
    with contextlib.suppress(OSError):
        for path in root.iterdir():
            if path.name.startswith((NEW, GONE)):
                _clear(path)


def read_all(root: Path) -> list[tuple[JobFolder, Record | PersresError]]:
    """The trainings of a folder in their order, each with its record, or with why that cannot be read."""
    found: dict[str, tuple[JobFolder, Record | PersresError]] = {}
    try:
        paths = sorted(root.iterdir())
    except OSError:
        return []
    for path in paths:
        if path.name.startswith(".") or not os.path.isdir(path):
            continue
        folder = JobFolder(path)
        try:
            found[folder.id] = folder, folder.read()
        except PersresError as error:
            found[folder.id] = folder, error
    return [found[name] for name in dict.fromkeys([*(n for n in read_order(root) if n in found), *found])]


def read_order(root: Path) -> list[str]:
    """The ids in order.json as far as they can be read: without it trainings are in the order of their making."""
    try:
        names = read_json(root / "order.json")
    except (OSError, PersresError):
        return []
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def write_order(root: Path, names: Sequence[str]) -> None:
    """Raises OSError."""
    write_whole(root / "order.json", json.dumps(list(names)).encode())
