"""The folder of a run: where everything lies, and how it is written so that a kill leaves nothing half."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import PersresError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class RunFolder:
    def __init__(self, root: str | os.PathLike):
        self.root = Path(root)

    @property
    def run_file(self) -> Path:
        return self.root / "run.json"

    def piece(self, concept: str, training: str) -> Path:
        return self.root / "pieces" / concept / training

    def pair(self, pair: str) -> Path:
        """A pair's folder: its scores, and its pieces as those of a concept."""
        return self.root / "pairs" / pair

    @property
    def classes_file(self) -> Path:
        """The nouns that were chosen as macro classes."""
        return self.root / "classes.json"

    def scores(self, concept: str) -> Path:
        return self.root / "scores" / f"{concept}.jsonl"

    def load(self) -> dict:
        """What run.json says."""
        try:
            return json.loads(self.run_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise PersresError(f"{self.root} holds no run: there is no {self.run_file}.") from None
        except ValueError as error:
            raise PersresError(f"{self.run_file} is damaged: {error}.") from error

    def begin(self, facts: dict) -> None:
        """Write run.json, or find the same run there. "created", "command" and "version" may differ."""
        if not self.run_file.exists():
            write_json(self.run_file, facts)
            return
        there = self.load()
        for name in ("suite", "dataset", "base"):
            if there.get(name) != json.loads(json.dumps(facts[name])):
                raise PersresError(
                    f"{self.root} holds another run (its {name} is not the same): give another folder with --out."
                )

    def rows(self, concept: str) -> list[dict]:
        """The scores of a concept; none where there are none."""
        file = self.scores(concept)
        if not file.exists():
            return []
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def picture_name(prompt: int, image: int) -> str:
    return f"{prompt:03}-{image:03}"


def write_bytes(path: Path, data: bytes) -> None:
    """The file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value) -> None:
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def write_rows(path: Path, rows: list[dict]) -> None:
    write_bytes(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def write_picture(path: Path, image: Image.Image) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


class Log:
    """What was done in a piece, one JSON line for each event: a kill loses none, a second run adds to it."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, event: str, **facts) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, **facts, "pid": os.getpid()}) + "\n")

    def events(self, event: str) -> list[dict]:
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # the last line of a process that was killed in it
                rows.append(json.loads(line))
        return [row for row in rows if row["event"] == event]


@contextlib.contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """Alone in a folder: who comes second waits, or is told so. A killed process holds nothing.

    Needed where a lost worker may live on for a moment while its piece is given to another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise PersresError(f"Another process works in {folder}: wait for it, or stop it.") from None
        yield
