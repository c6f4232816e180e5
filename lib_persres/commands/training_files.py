"""What a training writes: its file, and beside it the state by which it goes on after it was ended."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
from pathlib import Path

from ..errors import PersresError
from ..metadata import Metadata
from ..names import SUFFIX
from ..training.recipe import Recipe, alike, same_training
from ..writing import put_new
from .common import note, size_text
from .lock import only_one


class TrainingFiles:
    """out: the file. overwrite, resume: what the options say of those that are there."""

    def __init__(self, out: Path, overwrite: bool, resume: bool):
        self.out, self.overwrite, self.resume = out, overwrite, resume
        self.state = out.with_name(f"{out.stem}.state.pt")

    def lock(self) -> contextlib.AbstractContextManager[None]:
        taken = f"{self.out} is being trained by another process: wait for it, or give another name."
        return only_one(self.out.with_name(f".{self.out.stem}.lock"), taken)

    def check(self) -> None:
        """Raise PersresError where a file is there that the options do not allow for."""
        if self.out.is_dir():
            raise PersresError(f"{self.out} is a folder where a file is to be written: give another name.")
        if self.resume:
            if not self.state.is_file():
                raise PersresError(self._nothing_to_resume())
            return
        if self.overwrite:
            return
        if self.state.is_file():
            raise PersresError(
                f"A training of {self.out} was ended early ({self.state}): go on with --resume, or begin anew with "
                "--overwrite."
            )
        if self.out.exists():
            raise PersresError(f"{self.out} already exists: give another name, or --overwrite to replace it.")

    def _nothing_to_resume(self) -> str:
        metadata = _read(self.out)
        if metadata is None:
            there = f", and {self.out} is no residual" if self.out.exists() else ""
            return f"There is nothing to go on with: {self.state} is not there{there}. Leave out --resume to begin."
        total = _steps(metadata)
        if metadata.steps == total:
            return (
                f"{self.out} is finished, with other options than these ({total} of {total} steps, class "
                f"{metadata.macro_class}): give another name, or --overwrite instead of --resume to learn anew."
            )
        return (
            f"{self.out} was learned in {metadata.steps} of {total or '?'} steps, but its state {self.state} is not "
            "there, so it cannot go on: give another name, or --overwrite instead of --resume to begin anew."
        )

    def finished(self, concept: str, macro_class: str, recipe: Recipe) -> bool:
        """Whether what is to go on has ended already, by the same options as far as the file tells them."""
        metadata = _read(self.out) if self.resume and not self.state.is_file() else None
        if metadata is None or metadata.steps != recipe.steps:
            return False
        own = {**recipe.to_dict(), "resolution": metadata.recipe.get("resolution")}
        named = (metadata.concept, metadata.macro_class) == (concept, macro_class)
        return named and alike(metadata.recipe, own)

    def identifier(self) -> str | None:
        """That of the training that is to go on; None: there is none. PersresError where its state is damaged."""
        if not self.resume:
            return None
        from ..training.state import read_facts

        return read_facts(self.state).identifier

    def check_room(self, file: int, state: int) -> None:
        """Before the work. file, state: bytes."""
        with contextlib.suppress(OSError):  # a disk that does not tell
            free = shutil.disk_usage(self.out.parent).free
            if free < file:
                raise PersresError(
                    f"{self.out.parent} has room for {size_text(free)}, and the file needs {size_text(file)}: "
                    "make room, or give another place with --out."
                )
            if free < file + 2 * state:  # the old one stays until the new one is whole
                note(
                    f"warning: {self.out.parent} has room for {size_text(free)}, too little to keep the training's "
                    f"state (twice {size_text(state)}): if it is ended early, it cannot be resumed."
                )

    def place(self, residual) -> tuple[Path, str]:
        """Write the residual. Where it went, and a sentence where that is not where it was to go."""
        try:
            path = self._place_in(self.out.parent, residual)
        except PersresError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            for folder in _elsewhere():
                with contextlib.suppress(PersresError, OSError):
                    path = self._place_in(folder, residual)
                    return path, f"{error} So it is in {path}: move it."
            raise
        if path != self.out:
            return path, f"{self.out} was written by another meanwhile, so this one is {path.name}."
        return path, ""

    def _place_in(self, folder: Path, residual) -> Path:
        target = folder / self.out.name
        if folder == self.out.parent and (self.overwrite or self.is_own(target, residual.metadata)):
            residual.save(target)
            return target
        written = folder / f".{secrets.token_hex(6)}{SUFFIX}"
        try:
            residual.save(written)
            for number in range(1, 1000):
                path = target if number == 1 else target.with_name(f"{self.out.stem}-{number}{SUFFIX}")
                with contextlib.suppress(FileExistsError):
                    put_new(written, path)
                    return path
            raise PersresError(f"{target} and many of its name are there already: give another name.")
        except OSError as error:
            raise PersresError(f"{target} cannot be written: {error.strerror or error}.") from error
        except PersresError as error:  # of the name that nobody knows
            raise PersresError(str(error).replace(str(written), str(target))) from error.__cause__
        finally:
            with contextlib.suppress(OSError):
                written.unlink(missing_ok=True)

    @staticmethod
    def is_own(path: Path, metadata) -> bool:
        """Whether the file is of the training whose metadata these are."""
        theirs = _read(path)
        return theirs is not None and same_training(theirs, metadata)

    def forget_state(self) -> None:
        with contextlib.suppress(OSError):
            self.state.unlink(missing_ok=True)


def _read(path: Path) -> Metadata | None:
    """What a residual's file says; None where there is none."""
    from ..residual import Residual  # brings torch, which `--help` does not wait for

    try:
        return Residual.read_metadata(path) if path.is_file() else None
    except (PersresError, OSError):
        return None


def _steps(metadata: Metadata) -> int | None:
    """Of the whole training; None where the file's recipe is of another version."""
    try:
        return Recipe.from_dict(metadata.recipe).steps
    except PersresError:
        return None


def _elsewhere() -> list[Path]:
    """Folders to which what was learned is saved where its own takes nothing any more."""
    found = [Path.cwd()]
    with contextlib.suppress(RuntimeError):
        found.append(Path.home())
    return [*found, Path(tempfile.gettempdir())]
