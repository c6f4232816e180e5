"""The queue of trainings: kept on disk, worked off one at a time by one thread."""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from ...errors import PersresError, first_line
from ..files import SUFFIX, Shelf
from . import store
from .job import OVER, RESUMABLE, Job
from .photos import Source
from .request import Request
from .run import Loan, run

OUT_OF_MEMORY = (
    "There is not enough memory for this training: lower the resolution or the micro-batch, or close what else uses "
    "the card; the WebUI goes on as before."
)


class Jobs:
    """All trainings, the finished ones too, until they are removed.

    root: the folder that keeps them. turn: a lock under which nothing else uses the model; a job is chosen when it is
    had. lend: the model for one training, called with a title; whatever it changed is back at its end. state_every: a
    training's state is saved after so many steps.
    """

    def __init__(
        self,
        root: Path,
        shelf: Shelf,
        turn: Callable[[], AbstractContextManager],
        lend: Callable[[str], AbstractContextManager[Loan]],
        state_every: Callable[[], int] = lambda: 50,
    ):
        self.root, self.shelf, self.turn, self.lend, self.state_every = Path(root), shelf, turn, lend, state_every
        self._changed = threading.Condition(threading.RLock())
        self._jobs: dict[str, Job] = {}
        """In the order of the queue."""
        self._thread: threading.Thread | None = None
        self._closing = False

    # -- its life

    def start(self) -> None:
        """Read what an earlier process left, and begin to work; a second call does nothing."""
        with self._changed:
            if self._thread is not None:
                return
            for folder, record in store.read_all(self.root):
                job = Job(folder, record)
                if record.state == "running":
                    job.put(state="interrupted", message="The WebUI ended in the middle of it; it can be resumed.")
                self._jobs.setdefault(folder.id, job)
            self._thread = threading.Thread(target=self._work, name="persres training", daemon=True)
            self._thread.start()

    def close(self, seconds: float = 60) -> None:
        """End the worker; a running training is interrupted, to be resumed by whoever reads the folder next."""
        with self._changed:
            self._closing = True
            for job in self._jobs.values():
                if job.record.state == "running":
                    job.wish("close")
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(seconds)

    # -- what others ask

    def submit(
        self,
        request: Request,
        images: Sequence[tuple[str, Source]],
        class_images: Sequence[tuple[str, Source]] = (),
        notes: Sequence[str] = (),
    ) -> str:
        """Put a training at the queue's end; its id. PersresError where it could not end well.

        notes: sentences that its status tells from the beginning.
        """
        with self._changed:
            self._refuse_name(request)
        folder = store.JobFolder.create(self.root, request, images, class_images, notes)
        with self._changed:
            try:
                self._refuse_name(request)  # again: reading the images took its time
                job = Job(folder, folder.read())
                self._jobs[folder.id] = job
                self._write_order()
            except BaseException:
                self._jobs.pop(folder.id, None)
                folder.remove()
                raise
            self._changed.notify_all()
        return folder.id

    def _refuse_name(self, request: Request) -> None:
        path = Path(self.shelf.folder()) / f"{request.concept}{SUFFIX}"
        if path.exists() and not request.overwrite:
            raise PersresError(f"There is a residual {path} already: take another name, or tick overwrite.")
        for job in self._jobs.values():
            if job.request.concept == request.concept and job.record.state in ("queued", "running"):
                raise PersresError(f'A training of "{request.concept}" is {job.record.state} already.')

    def list(self) -> list[dict]:
        with self._changed:
            return [job.status() for job in self._jobs.values()]

    def get(self, identity: str) -> dict:
        return self._job(identity).status()

    def stop(self, identity: str) -> None:
        """End it after its current step and keep what was learned."""
        self._end(identity, "stop", "stopped", "It was not begun.")

    def cancel(self, identity: str) -> None:
        """End it and keep nothing, but what "save now" wrote."""
        self._end(identity, "cancel", "cancelled", "Cancelled; nothing of it was kept.")

    def _end(self, identity: str, wish: str, state: str, message: str) -> None:
        with self._changed:
            job = self._job(identity)
            job.refuse_unless(("queued", "running"), "there is nothing to end")
            if job.record.state == "running":
                job.wish(wish)
                return
            if wish == "cancel":
                job.folder.forget_work()
                job.put(done=0, curve=[])
            job.put(state=state, message=message)

    def save_now(self, identity: str) -> None:
        self._wish(identity, "save", "it has nothing to save now")

    def sample_now(self, identity: str) -> None:
        self._wish(identity, "sample", "it has nothing to draw now")

    def _wish(self, identity: str, wish: str, otherwise: str) -> None:
        with self._changed:
            job = self._job(identity)
            job.refuse_unless(("running",), otherwise)
            job.wish(wish)

    def resume(self, identity: str) -> None:
        """Let it wait in its old place, so before all that have not begun; without a state it begins anew."""
        with self._changed:
            job = self._job(identity)
            job.refuse_unless(RESUMABLE, "it cannot be resumed")
            for other in self._jobs.values():
                if other is not job and other.request.concept == job.request.concept:
                    other.refuse_unless(OVER, "end that one first, or wait for it")
            job.forget_wishes()
            job.put(state="queued", message="")
            self._changed.notify_all()

    def move(self, identity: str, places: int) -> None:
        """Move a queued training by so many places among the queued ones; below 0 is earlier."""
        with self._changed:
            self._job(identity).refuse_unless(("queued",), "only those that wait can be moved")
            queued = [name for name, job in self._jobs.items() if job.record.state == "queued"]
            at = queued.index(identity)
            queued.insert(max(0, at + places), queued.pop(at))
            order = iter(queued)
            self._jobs = {
                name: self._jobs[name]
                for name in [next(order) if job.record.state == "queued" else old for old, job in self._jobs.items()]
            }
            self._write_order()

    def remove(self, identity: str) -> None:
        """Forget a training with its images; the residual in the folder of residuals stays."""
        with self._changed:
            job = self._job(identity)
            job.refuse_unless((*OVER, "queued"), "stop or cancel it first")
            job.folder.remove()
            del self._jobs[identity]
            with contextlib.suppress(PersresError):
                self._write_order()

    def _job(self, identity: str) -> Job:
        try:
            return self._jobs[identity]
        except KeyError:
            raise PersresError(f"There is no training {str(identity)[:60]!r}.") from None

    def _write_order(self) -> None:
        try:
            store.write_order(self.root, list(self._jobs))
        except OSError as error:
            raise PersresError(f"The queue cannot be kept in {self.root}: {error.strerror or error}.") from error

    # -- the worker

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._closing and self._next() is None:
                    self._changed.wait()
                if self._closing:
                    return
            with self.turn():
                with self._changed:
                    # only now: while it waited its turn, jobs may have been moved or cancelled
                    job = None if self._closing else self._next()
                    if job is not None:
                        job.forget_wishes()
                        job.put(state="running", message="")
                if job is not None:
                    self._run(job)

    def _next(self) -> Job | None:
        return next((job for job in self._jobs.values() if job.record.state == "queued"), None)

    def _run(self, job: Job) -> None:
        state, message = "failed", ""
        try:
            with self.lend(f"training {job.request.concept}") as loan:
                state = run(job, loan, self.shelf, self.state_every())
        except PersresError as error:
            state, message = "failed", str(error)
        except torch.cuda.OutOfMemoryError:
            state, message = "failed", OUT_OF_MEMORY
        except Exception as error:
            # the thread must live on for the next job, whatever this one met
            traceback.print_exc()
            state, message = "failed", f"The training broke off: {type(error).__name__}: {first_line(error)}."
        finally:
            with self._changed:
                job.put(state=state, **({"message": message} if message else {}))
        if torch.cuda.is_available():  # an exception's traceback kept what it held until now
            torch.cuda.empty_cache()
        if message:
            print(f'persres: the training of "{job.request.concept}" failed: {message}')
