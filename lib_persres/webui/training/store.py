"""A training on disk: its own folder with the images, the record, the trainer's state and the previews.

A record or a folder is whole or not there, whenever the process dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from ...errors import PersresError
from ...training.images import Photo
from . import photos
from .request import Request

STATES = ("queued", "running", "finished", "stopped", "cancelled", "failed", "interrupted")
NEW, GONE = ".new-", ".gone-"


@dataclass
class Record:
    """What a restarted WebUI has to know of a training."""

    request: dict
    images: list[str]
    """The names that the user knows them by."""
    class_images: list[str] = field(default_factory=list)
    """Likewise; none: where the recipe wants some, the model draws them."""
    stages: list[list] = field(default_factory=list)
    """The targets and steps of each stage, once it has begun."""
    state: str = "queued"
    done: int = 0
    total: int = 0
    curve: list[float] = field(default_factory=list)
    message: str = ""
    file: str | None = None
    name: str | None = None
    stamp: list[int] | None = None
    """Of the file when it was written, which tells whether it still is this training's own."""
    pace: dict | None = None
    """What its last steps took: the seconds of a row, the side of the pictures, the UNet's size."""
    identifier: str | None = None
    base_hash: str | None = None
    checkpoint: str | None = None
    """The model that it was begun on, by which it has to be continued."""


class JobFolder:
    """<root>/<id>/ of one training."""

    def __init__(self, path: Path):
        self.path = path
        self.id = path.name
        self.state = path / "state.pt"
        self.previews = path / "previews"

    @classmethod
    def create(
        cls,
        root: Path,
        request: Request,
        images: Sequence[tuple[str, bytes]],
        class_images: Sequence[tuple[str, bytes]] = (),
    ) -> JobFolder:
        """Write a new training's folder. PersresError where an image cannot be used or the disk is full."""
        photos.check_count(len(images))
        if class_images:
            request.refuse_class_images()
            photos.check_count(len(class_images), of_class=True)
        photos.check_sizes([*images, *class_images])
        identity = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        partial = root / f"{NEW}{identity}"
        folder = cls(partial)
        try:
            folder._keep("images", images)
            folder._keep("class_images", class_images)
            kept = ([name for name, _ in each] for each in (images, class_images))
            folder.write(Record(request.to_dict(), *kept))
            os.replace(partial, root / identity)
        except OSError as error:
            raise PersresError(f"The training cannot be kept in {root}: {error.strerror or error}.") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return cls(root / identity)

    def _keep(self, kind: str, images: Sequence[tuple[str, bytes]]) -> None:
        if not images:
            return
        (self.path / kind).mkdir(parents=True)
        paths = self._image_paths(kind, len(images))
        for path, (_, data) in zip(paths, images):
            path.write_bytes(data)
        photos.load(paths, [name for name, _ in images])

    def _image_paths(self, kind: str, count: int) -> list[Path]:
        return [self.path / kind / f"{number:04d}" for number in range(count)]

    def photos(self, record: Record) -> list[Photo]:
        return photos.load(self._image_paths("images", len(record.images)), record.images)

    def class_photos(self, record: Record) -> list[Photo] | None:
        names = record.class_images
        return photos.load(self._image_paths("class_images", len(names)), names) if names else None

    def read(self) -> Record:
        """The record. PersresError where it is damaged."""
        try:
            values = json.loads((self.path / "job.json").read_text(encoding="utf-8"))
            known = {item.name for item in fields(Record)}
            record = Record(**{name: value for name, value in values.items() if name in known})
            Request.from_dict(record.request)
            if record.state not in STATES:
                raise ValueError(f"the state {record.state!r} is not known")
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise PersresError(f"The training {self.path} cannot be read ({error}).") from error
        return record

    def write(self, record: Record) -> None:
        write_whole(self.path / "job.json", json.dumps(asdict(record), indent=1).encode())

    def forget_work(self) -> None:
        """Drop what was learned; the images and the record stay."""
        with contextlib.suppress(OSError):
            self.state.unlink(missing_ok=True)
        shutil.rmtree(self.previews, ignore_errors=True)

    def remove(self) -> None:
        gone = self.path.with_name(f"{GONE}{self.id}")
        try:
            os.replace(self.path, gone)
        except OSError as error:
            raise PersresError(f"{self.path} cannot be removed: {error.strerror or error}.") from error
        shutil.rmtree(gone, ignore_errors=True)

    def preview_paths(self) -> list[dict]:
        """{"step", "plain", "lag"} of each preview, in the order of their steps."""
        found = []
        for plain in sorted(self.previews.glob("*-plain.png")):
            step = plain.name.partition("-")[0]
            lag = plain.with_name(f"{step}-lag.png")
            if step.isdigit() and lag.is_file():
                found.append({"step": int(step), "plain": str(plain), "lag": str(lag)})
        return found


def write_whole(path: Path, data: bytes) -> None:
    """Replace the file by `data` in one step."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def read_all(root: Path) -> list[tuple[JobFolder, Record]]:
    """The trainings of a folder in their order; what was half made or half removed is cleared away."""
    if not root.is_dir():
        return []
    found = {}
    for path in sorted(root.iterdir()):
        if path.name.startswith((NEW, GONE)):
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_dir():
            try:
                found[path.name] = JobFolder(path), JobFolder(path).read()
            except PersresError as error:
                print(f"persres: {error} It is left out.")
    return [found[name] for name in dict.fromkeys([*(n for n in read_order(root) if n in found), *found])]


def read_order(root: Path) -> list[str]:
    try:
        return [str(name) for name in json.loads((root / "order.json").read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def write_order(root: Path, names: Sequence[str]) -> None:
    write_whole(root / "order.json", json.dumps(list(names)).encode())
