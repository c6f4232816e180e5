"""A training from its place in the queue to its file in the folder of residuals."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from PIL import Image

from ...errors import PersresError, first_line
from ...metadata import Metadata
from ...names import SUFFIX
from ...residual import Residual, file_hash
from ...residual_folder import ResidualFolder
from ...thumbnail import thumbnail
from ...toybox import CHECKPOINT, is_converted
from ...training import recipes
from ...training.host import DrawingHost, Host
from ...training.loop import learn
from ...training.prepare import prepare
from ...training.preview import draw
from ...training.recipe import Recipe, same_training
from ...training.trainer import Trainer
from ...writing import write_whole
from .job import Job
from .pace import size_of

ONE = "It learns from a single photo: its background may become part of the concept; 3 to 10 photos are better."


class Loan(Protocol):
    """A model for the time of a training. checkpoint: its name for the user."""

    host: DrawingHost
    checkpoint: str

    def progress(self, done: int, total: int, text: str) -> None:
        """text: how far it is, for the user."""

    def interrupted(self) -> bool:
        """Whether the training is to stop."""

    def wanted(self) -> bool:
        """Whether somebody waits for the model who is to have it first."""

    def give_way(self, leave: Callable[[], bool]) -> bool:
        """Lend the model back until those who wait have had it; whether it is the very same then, or `host` another.

        leave: where it turns true meanwhile, this returns without the model. PersresError where it is gone.
        """

    def memory(self) -> dict | None: ...


class Ended(Exception):
    """How a training ends before its last step: a state of `record.STATES`."""


class _Wanted(Exception):
    """Somebody waits for the model."""


def run(job: Job, loan: Loan, residuals: ResidualFolder, state_every: int) -> str:
    """Train; the state that the job ends in. PersresError for what the user can change."""
    notes = job.record.notes + ([ONE] if len(job.record.images) == 1 else [])
    steps = _Steps(job, loan, residuals, _trainer(job, loan, residuals), notes, state_every)
    recipe = steps.trainer.recipe
    job.progress(steps.trainer.done, steps.trainer.losses, loan.memory())
    stages = [[stage.targets, stage.steps] for stage in recipe.stages]
    job.put(total=recipe.steps, stages=stages, message=" ".join(notes))
    end = "finished"
    try:
        steps.make()
    except Ended as ended:
        end = str(ended)
    done = steps.trainer.done
    if end == "cancelled":
        job.folder.forget_work()
        job.put(done=0, curve=[], message="Cancelled; nothing of it was kept.")
        return end
    if end == "finished":
        try:
            residual = steps.save(done=True)
        except PersresError:
            steps.save_state()
            raise
    else:
        steps.save_state()
        if end == "queued":
            job.put(message=f"The page was reloaded at step {done} of {recipe.steps}; it goes on by itself.")
        if end != "stopped" or not done:
            return end
        residual = steps.save(done=False)
    if residual.metadata.preview is None:
        steps.add_picture(residual)
    return end


def _trainer(job: Job, loan: Loan, residuals: ResidualFolder) -> Trainer:
    request, record, host = job.request, job.record, loan.host
    continued = job.folder.state.is_file()
    if continued and record.base_hash not in (None, host.hash):
        raise PersresError(
            f'The training of "{request.concept}" was begun on the checkpoint {record.checkpoint}: '
            "load that one again, then resume."
        )
    request.refuse_unfit(host.unet, host.side)
    own = _target(job, residuals)
    trainer = prepare(
        host,
        job.folder.photos(record),
        request.concept,
        request.macro_class,
        recipe_of(request, host),
        request.running,
        identifier=record.identifier if continued else None,
        others=(entry.path for entry in residuals.refresh() if entry.path != own),
        class_photos=job.folder.class_photos(record),
    )
    if continued:
        trainer.load_state(job.folder.state)
    job.put(identifier=trainer.identifier, base_hash=host.hash, checkpoint=loan.checkpoint)
    return trainer


def recipe_of(request, host: Host) -> Recipe:
    is_toybox = not request.recipe and CHECKPOINT.is_file() and file_hash(CHECKPOINT) == host.hash
    if not request.recipe and (path := getattr(host, "path", None)) is not None:
        is_toybox = is_toybox or is_converted(path)
    return request.recipe_for(recipes.recipe_of(request.recipe, is_toybox).name)


def _target(job: Job, residuals: ResidualFolder) -> Path:
    return Path(residuals.folder()) / f"{job.request.concept}{SUFFIX}"


class _Steps:
    """What happens between the steps."""

    def __init__(
        self,
        job: Job,
        loan: Loan,
        residuals: ResidualFolder,
        trainer: Trainer,
        notes: list[str],
        state_every: int,
    ):
        self.job, self.loan, self.residuals, self.trainer = job, loan, residuals, trainer
        self.notes, self.state_every = notes, state_every
        self.unet_size = size_of(loan.host.unet)
        self._paced = False
        """Whether the clock runs."""

    def make(self) -> None:
        """All steps, with the model lent to others in between wherever they wait for it. Raises Ended."""
        while True:
            self._paced = False
            try:
                learn(
                    self.trainer,
                    after_step=self.after,
                    should_stop=self.before,
                    tell=self.tell_note,
                    drawing=self.drawing,
                )
                self._heed_ends()
                return
            except _Wanted:
                self.job.drawing = None
                self._give_way()
            finally:
                self.job.drawing = None

    def _give_way(self) -> None:
        job = self.job
        job.paused = True
        try:
            same = self.loan.give_way(lambda: job.wished("cancel") or job.wished("close"))
            self._heed_ends()
            if not same:  # another checkpoint was loaded in between, and ours anew
                self.trainer.save_state(job.folder.state)
                del self.trainer  # its memory is the next one's
                self.trainer = _trainer(job, self.loan, self.residuals)
        except Ended:
            raise
        except Exception:
            if hasattr(self, "trainer"):
                self.save_state()  # so that nothing is lost with the model
            raise
        finally:
            job.paused = False

    def drawing(self, drawn: int, count: int) -> None:
        """While the model draws the pictures of the class that the recipe wants and nobody gave. Raises Ended."""
        self.job.drawing = {"done": drawn, "total": count}
        self.loan.progress(drawn, count, f"drawing pictures of the class: {drawn} of {count}")
        self._heed_ends()
        if self.loan.wanted():
            raise _Wanted

    def _heed_ends(self) -> None:
        job = self.job
        if job.wished("cancel"):
            raise Ended("cancelled")
        if job.wished("close"):
            raise Ended("queued")
        if not self.trainer.finished and (job.wished("stop") or self.loan.interrupted()):
            raise Ended("stopped")

    def before(self) -> bool:
        """Before a step: do what was wished since the last. Raises Ended."""
        job = self.job
        if job.drawing is not None:
            job.drawing = None
            self.save_state()  # so that an end of the process does not cost the pictures
        if not self._paced:
            job.begin_clock(self.trainer.done)
            self._paced = True
        self._heed_ends()
        if job.take("save"):
            self._trying(lambda: self.save(done=False), "It could not be saved")
        if job.take("sample"):
            self._trying(self.preview, "No picture could be drawn")
        return False

    def after(self, loss: float) -> None:
        """After a step. Raises _Wanted."""
        job, trainer = self.job, self.trainer
        job.progress(trainer.done, trainer.losses, self.loan.memory())
        job.measure(trainer.recipe.at(trainer.done - 1)[2].rows, trainer.resolution, self.unet_size)
        self.loan.progress(trainer.done, trainer.recipe.steps, trainer.recipe.place(trainer.done))
        if self.state_every and trainer.done % self.state_every == 0:
            self.save_state()
        every = job.request.preview_every
        if every and trainer.done % every == 0:
            self._trying(self.preview, "No picture could be drawn")
        if self.loan.wanted() and not trainer.finished:
            raise _Wanted

    def tell_note(self, sentence: str) -> None:
        """One of the trainer's."""
        if sentence not in self.notes:
            self.tell(sentence, lasting=True)

    def tell(self, sentence: str, lasting: bool = False) -> None:
        self.job.put(message=" ".join([*self.notes, sentence]))
        if lasting:
            self.notes.append(sentence)

    def _trying(self, do: Callable[[], object], what: str) -> None:
        """A wish that fails does not end the training."""
        try:
            do()
        except PersresError as error:
            self.tell(f"{what}: {error}")

    def save_state(self) -> None:
        try:
            self.trainer.save_state(self.job.folder.state)
        except PersresError as error:
            self.tell(f"It could not be resumed from here: {error}")
        else:
            self.job.put()

    def _draw(self, residual: Residual, **options) -> list[Image.Image]:
        request = self.job.request
        prompt = request.preview_prompt or self.trainer.recipe.prompt("V*", request.macro_class)
        return draw(self.loan.host, residual, prompt, self.trainer.resolution, request.seed, **options)

    def preview(self) -> None:
        job, trainer = self.job, self.trainer

        def progress(done, total):
            if job.wished("cancel") or job.wished("close"):
                self._heed_ends()

        plain, lag = self._draw(trainer.residual(), progress=progress)
        try:
            job.folder.previews.mkdir(exist_ok=True)
            # the plain one last: who lists the previews looks for it first
            for which, image in (("lag", lag), ("plain", plain)):
                write_whole(job.folder.previews / f"{trainer.done:06d}-{which}.png", _png(image))
        except OSError as error:
            raise PersresError(f"{job.folder.previews} cannot be written: {error.strerror or error}.") from error
        job.begin_clock(trainer.done)  # the time of a picture is no step's

    def save(self, done: bool) -> Residual:
        """Write the residual into the folder of residuals, never over a file that is not this training's own."""
        job, trainer, residual = self.job, self.trainer, self.trainer.residual()
        residual.metadata.preview = self._last_preview()
        path, moved = _free(job, _target(job, self.residuals), residual.metadata)
        try:
            self._write(residual, path)
        except PersresError as error:
            if done:
                raise PersresError(f"{error} What was learned is kept here: make room, then resume.") from error
            raise
        entries = self.residuals.refresh()
        job.put(name=next((entry.name for entry in entries if entry.path == path), path.stem))
        if moved:
            taken = _target(job, self.residuals).name
            self.tell(f'A file "{taken}" is there already, so this one is "{path.name}".', lasting=True)
        if not done:
            self.tell(f"What was learned in {trainer.done} of {trainer.recipe.steps} steps is in {path.name}.")
        return residual

    def _write(self, residual: Residual, path: Path) -> None:
        residual.save(path)
        status = path.stat()
        self.job.put(file=str(path), stamp=[status.st_mtime_ns, status.st_size])

    def _last_preview(self) -> str | None:
        with contextlib.suppress(Exception):  # there is none, or it is damaged
            with Image.open(self.job.folder.preview_paths()[-1]["plain"]) as image:
                return thumbnail(image)
        return None

    def add_picture(self, residual: Residual) -> None:
        """Draw a picture for the card into the file, which is there already: whatever happens here does not cost it."""
        job = self.job

        def progress(done, total):
            if job.wished("cancel") or job.wished("close"):
                raise Ended("finished")

        try:
            (plain,) = self._draw(residual, lag=[False], progress=progress)
            residual.metadata.preview = thumbnail(plain)
            assert job.record.file is not None  # `save` wrote it
            path = Path(job.record.file)
            if _is_own(job, path, residual.metadata):
                self._write(residual, path)
        except Ended:
            self.tell("It had ended already, and its file stays; only the picture for its card was left out.")
        except Exception as error:
            self.tell(f"No picture could be drawn for its card: {first_line(error)}.")


def _free(job: Job, path: Path, metadata: Metadata) -> tuple[Path, bool]:
    """The path to write, and whether it had to be another than the concept's."""
    if job.request.overwrite or not path.exists() or _is_own(job, path, metadata):
        return path, False
    number = 2
    while (other := path.with_stem(f"{path.stem} {number}")).exists() and not _is_own(job, other, metadata):
        number += 1
    return other, True


def _is_own(job: Job, path: Path, metadata: Metadata) -> bool:
    """Whether this training wrote the file: as the record says, or, where a kill came before the record, the file."""
    with contextlib.suppress(OSError, PersresError):
        status = path.stat()
        if job.record.file == str(path) and job.record.stamp == [status.st_mtime_ns, status.st_size]:
            return True
        return same_training(Residual.read_metadata(path), metadata)
    return False


def _png(image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
