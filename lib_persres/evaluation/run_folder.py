"""The folder of a run: where everything lies, and the only code that reads and writes it.

    run.json                       the suite, the dataset, the base model and the command
    classes.json                   the nouns that were chosen as macro classes
    pieces/<subject>/<training>/   a piece: asked.json says what was asked of it, piece.json (the last to come) what it
                                   took, log.jsonl what was done when; its residual.safetensors
    pieces/<subject>/<training>/<method>/PPP-III.png, masks.npz
    scores/<subject>.jsonl         a row for each picture
    scores/made.json               what the rows were made from, so that none is made twice
    report/

A subject is a concept, or a pair of them in one picture. A kill leaves nothing half.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import PersresError
from ..training.images import image_files
from ..writing import write_whole

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # a module that may be missing


def picture_name(prompt: int, image: int) -> str:
    return f"{prompt:03}-{image:03}"


class PieceFolder:
    """One piece's: a subject's pictures by the methods of one training."""

    def __init__(self, path: Path):
        self.path, self.subject, self.training = path, path.parent.name, path.name
        self.residual, self.state = path / "residual.safetensors", path / "training.pt"
        self.log = Log(path / "log.jsonl")

    @property
    def facts(self) -> dict:
        """What the piece took; {} while it is not done."""
        return read_json(self.path / "piece.json", {})

    @property
    def asked(self) -> dict:
        return read_json(self.path / "asked.json", {})

    def begin(self, asked: dict) -> None:
        """What is asked, before anything of it is done: what was done before is not the whole any more."""
        (self.path / "piece.json").unlink(missing_ok=True)
        write_json(self.path / "asked.json", asked)

    def finish(self, facts: dict) -> None:
        """made: what each method's pictures are."""
        methods = [folder.name for folder in sorted(self.path.glob("*/"))]
        write_json(self.path / "piece.json", {**facts, "made": {name: self._digest(name) for name in methods}})

    def picture(self, method: str, name: str) -> Path:
        return self.path / method / f"{name}.png"

    def names(self, method: str) -> set[str]:
        return {file.stem for file in (self.path / method).glob("*.png")}

    def open(self, method: str, name: str) -> Image.Image:
        file = self.picture(method, name)
        try:
            with Image.open(file, formats=("PNG",)) as image:
                return image.convert("RGB")
        except (OSError, ValueError) as error:
            raise PersresError(f"The picture {file} cannot be scored: run the evaluation again first.") from error

    def write_picture(self, method: str, name: str, image: Image.Image, mask: np.ndarray | None) -> None:
        """mask: LAG's; it comes before the picture, whose presence says that all is there."""
        if mask is not None:
            _write_arrays(self.path / method / "masks" / f"{name}.npz", {"mask": mask})
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        _write(self.picture(method, name), buffer.getvalue())

    def masks(self, method: str) -> dict[str, np.ndarray]:
        """LAG's masks by the pictures' names, (h,w) in half precision: the share of blocks and steps that act there."""
        kept, parts = self.path / method / "masks.npz", (self.path / method / "masks").glob("*.npz")
        gathered = dict(np.load(kept)) if kept.is_file() else {}
        return gathered | {file.stem: np.load(file)["mask"] for file in sorted(parts)}

    def gather_masks(self, method: str) -> None:
        """One file for all masks of a method."""
        folder = self.path / method / "masks"
        if folder.is_dir():
            _write_arrays(folder.with_suffix(".npz"), self.masks(method))
            shutil.rmtree(folder)

    def digest(self, method: str) -> str:
        """Of a method's pictures and masks: from piece.json, else made of the files."""
        return self.facts.get("made", {}).get(method) or self._digest(method)

    def _digest(self, method: str) -> str:
        files = sorted(file for file in (self.path / method).glob("*.*") if file.suffix in (".png", ".npz"))
        return digest([(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files])


class RunFolder:
    def __init__(self, root: str | os.PathLike):
        self.root = Path(root)
        self.run_file, self.classes_file = self.root / "run.json", self.root / "classes.json"
        self.made_file = self.root / "scores" / "made.json"

    def piece(self, subject: str, training: str) -> PieceFolder:
        return PieceFolder(self.root / "pieces" / subject / training)

    def pieces(self) -> list[PieceFolder]:
        """Those that are done."""
        return [PieceFolder(file.parent) for file in sorted(self.root.glob("pieces/*/*/piece.json"))]

    def load(self) -> dict:
        """What run.json says."""
        facts = read_json(self.run_file)
        if facts is None:
            raise PersresError(f"{self.root} is no run of an evaluation: there is no {self.run_file}.")
        if not isinstance(facts, dict) or not isinstance(facts.get("suite"), dict):
            raise PersresError(f"{self.run_file} says nothing of a suite: it was not written by `evaluate run`.")
        return facts

    def check(self, facts: dict) -> None:
        """PersresError where the folder has a run of other data. What else contradicts, each piece says by itself."""
        there = self.load() if self.run_file.exists() else facts
        for name in ("dataset", "base"):
            if there.get(name) != facts[name]:
                raise PersresError(
                    f"{self.root} holds another run (its {name} is not the same): give another folder with --out."
                )

    def begin(self, facts: dict) -> None:
        """Write run.json, unless it says the same suite."""
        if not self.run_file.exists() or self.load()["suite"] != facts["suite"]:
            write_json(self.run_file, facts)

    # -- scores

    def rows(self, subject: str) -> list[dict]:
        """The scores of a subject; none where there are none. PersresError for what is no row."""
        file, rows = self.root / "scores" / f"{subject}.jsonl", []
        for number, line in enumerate((_text(file) or "").splitlines(), 1):
            try:
                rows.append(json.loads(line))
                key(rows[-1])
            except (ValueError, KeyError, TypeError):
                raise PersresError(
                    f"{file}, line {number} is no row of scores: make the scores anew with `evaluate score`."
                ) from None
        return rows

    def scored(self) -> list[str]:
        """The subjects that have scores."""
        return [file.stem for file in sorted(self.root.glob("scores/*.jsonl"))]

    def made(self, subject: str) -> dict[str, str]:
        return read_json(self.made_file, {}).get(subject, {})

    def write_scores(self, subject: str, rows: Iterable[dict], made: dict[str, str]) -> None:
        """made: method -> digest of all that its rows were made from."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        _write(self.root / "scores" / f"{subject}.jsonl", text.encode())
        write_json(self.made_file, read_json(self.made_file, {}) | {subject: made})

    # -- what a report shows

    def picture(self, subject: str, method: str, prompt: int, image: int) -> Path | None:
        """The file of a picture, None where it is not there."""
        folders = map(PieceFolder, sorted((self.root / "pieces" / subject).glob("*/")))
        files = (folder.picture(method, picture_name(prompt, image)) for folder in folders)
        return next((file for file in files if file.is_file()), None)

    def references(self, concept: str) -> list[Path]:
        """The concept's photos, if they are where the run says."""
        root = (self.load().get("dataset") or {}).get("root")
        places = [self.root / "references" / concept, *([self.root / root / concept] if root else [])]
        return next((found for place in places if place.is_dir() and (found := image_files(place))), [])


class Log:
    """What was done in a piece, one JSON line for each event: a kill loses none, a second run adds to it."""

    def __init__(self, path: Path):
        self.path = path

    def add(self, event: str, **facts) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, **facts, "pid": os.getpid()}) + "\n")

    def events(self, event: str) -> list[dict]:
        rows = []
        for line in (_text(self.path) or "").splitlines():
            with contextlib.suppress(ValueError):  # the last line of a process that was killed in it
                rows.append(json.loads(line))
        return [row for row in rows if row["event"] == event]


def key(row: dict) -> tuple:
    """Which picture a row of scores is of."""
    return tuple(row[name] for name in ("method", "concept", "prompt", "image"))


def digest(value) -> str:
    """Of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def read_json(path: Path, absent=None):
    """What the file holds; `absent` where there is none. PersresError where it is damaged."""
    text = _text(path)
    try:
        return absent if text is None else json.loads(text)
    except ValueError as error:
        raise PersresError(f"{path} is damaged: {error}.") from error


def write_json(path: Path, value) -> None:
    _write(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise PersresError(f"{path} is damaged: {error}.") from error


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data)


def _write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # no array is called allow_pickle
    _write(path, buffer.getvalue())


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
