"""The queue of trainings: kept on disk, worked off one at a time by one thread of one process."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from ...errors import PersresError, first_line
from ...names import SUFFIX
from ...residual_folder import ResidualFolder
from . import store
from .folder_lock import FolderLock
from .job import OVER, RESUMABLE, Broken, Job
from .photos import Source
from .request import Request
from .run import Loan, run
from .turn import Turn

OUT_OF_MEMORY = (
    "There is not enough memory for this training: lower the resolution or the micro-batch, or close what else uses "
    "the card; the WebUI goes on as before."
)
PATIENCE = 3.0
"""Seconds until a folder that another process has, or a disk that was full, is tried again."""


class Jobs:
    """All trainings, the finished ones too, until they are removed.

    root: the folder that keeps them; of several processes the first has it, and the others only look. turn: within it
    nothing else uses the model; a job is chosen when it is had. lend: the model for one training, called with a title
    and the turn; whatever it changed is back at its end. state_every: a training's state is saved after so many steps.
    check: raises PersresError for a request that the model could not follow. on_thread: does a training where the
    model is worked with.
    """

    def __init__(
        self,
        root: Path,
        residuals: ResidualFolder,
        turn: Callable[[], AbstractContextManager[Turn]],
        lend: Callable[[str, Turn], AbstractContextManager[Loan]],
        state_every: Callable[[], int] = lambda: 50,
        check: Callable[[Request], None] = lambda request: None,
        on_thread: Callable[[Callable[[], str]], str] = lambda do: do(),
    ):
        self.root, self.residuals = Path(root), residuals
        self.turn, self.lend, self.state_every, self.check = turn, lend, state_every, check
        self._on_thread = on_thread
        self._changed = threading.Condition(threading.RLock())
        self._lock = FolderLock(self.root)
        self._jobs: dict[str, Job] = {}
        """In the order of the queue."""
        self._broken: dict[str, Broken] = {}
        self._thread: threading.Thread | None = None
        self._closing = False

    # -- its life

    def start(self) -> None:
        """Read what an earlier process left, and begin to work; a second call does nothing."""
        with self._changed:
            if self._thread is not None:
                return
            self._others()
            self._thread = threading.Thread(target=self._work, name="persres training", daemon=True)
            self._thread.start()

    def close(self, seconds: float = 60) -> None:
        """End the worker; a running training waits again, to be gone on with by whoever reads the folder next."""
        with self._changed:
            self._closing = True
            for job in self._jobs.values():
                if job.record.state == "running":
                    job.wish("close")
            self._changed.notify_all()
            thread = self._thread
        if thread is None:
            self._lock.free()
        else:
            thread.join(seconds)

    def _others(self, create: bool = False) -> str:
        """Who else has the folder; "": it is ours, and read. create: make it where it is missing."""
        if self._closing:
            return "a WebUI that is being reloaded"
        if self._lock.held or not (create or self.root.is_dir()):
            return ""
        others = self._lock.take()
        if others is None:
            self._read()
        return others or ""

    def _refuse_others(self, create: bool = False) -> None:
        if others := self._others(create):
            raise PersresError(f"The queue in {self.root} belongs to {others}: use that one, or wait for its end.")

    def _read(self) -> None:
        store.clear_away(self.root)
        self._jobs, self._broken = {}, {}
        for folder, record in store.read_all(self.root):
            if isinstance(record, PersresError):
                print(f"persres: {record} It is left out.")
                self._broken[folder.id] = Broken(folder, record)
                continue
            job = self._jobs[folder.id] = Job(folder, record)
            if record.state == "finished":
                folder.forget_state()
            if record.state == "running":
                job.put(state="interrupted", message="The WebUI ended in the middle of it; it can be resumed.")

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
            self._refuse_others(create=True)
            self._refuse_name(request)
        self.check(request)
        folder = store.JobFolder.create(self.root, request, images, class_images, notes)
        with self._changed:
            try:
                self._refuse_name(request)  # again: reading the images took its time
                job = Job(folder, folder.read())
                self._write_order([*self._jobs, folder.id])
                self._jobs[folder.id] = job
            except BaseException:
                folder.remove()
                raise
            self._changed.notify_all()
        return folder.id

    def _refuse_name(self, request: Request) -> None:
        path = Path(self.residuals.folder()) / f"{request.concept}{SUFFIX}"
        try:
            is_there = path.exists()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise PersresError(f"The name {request.concept[:40]!r} cannot be used for a file: {reason}.") from error
        if is_there and not request.overwrite:
            raise PersresError(f"There is a residual {path} already: take another name, or tick overwrite.")
        for job in self._jobs.values():
            if job.request.concept == request.concept and job.record.state in ("queued", "running"):
                raise PersresError(f'A training of "{request.concept}" is {job.record.state} already.')

    def _seen(self, others: str) -> list[dict]:
        """What lies on the disk of another process's queue."""
        read: list[Broken | Job] = [
            Broken(folder, record) if isinstance(record, PersresError) else Job(folder, record)
            for folder, record in store.read_all(self.root)
        ]
        told = f"The queue belongs to {others}."
        return [{**status, "message": f"{status['message']} {told}".strip()} for status in (j.status() for j in read)]

    def list(self) -> list[dict]:
        """The states of all. Those that cannot be read come first."""
        with self._changed:
            if not self._closing and (others := self._others()):
                return self._seen(others)
            known: list[Broken | Job] = [*self._broken.values(), *self._jobs.values()]
            return [job.status() for job in known]

    def get(self, identity: str) -> dict:
        for status in self.list():
            if status["id"] == identity:
                return status
        raise _unknown(identity)

    def stop(self, identity: str) -> None:
        """End it after its current step and keep what was learned."""
        self._end(identity, "stop", state="stopped", message="It was not begun.")

    def cancel(self, identity: str) -> None:
        """End it and keep nothing, but what "save now" wrote."""
        changes = {"state": "cancelled", "message": "Cancelled; nothing of it was kept.", "done": 0, "curve": []}
        self._end(identity, "cancel", **changes)

    def _end(self, identity: str, wish: str, **changes) -> None:
        with self._changed:
            job = self._job(identity)
            job.refuse_unless(("queued", "running"), "there is nothing to end")
            if job.record.state == "running":
                job.wish(wish)
                return
            job.change(**changes)
            if wish == "cancel":
                job.folder.forget_work()

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
            job.change(state="queued", message="")
            job.forget_wishes()
            self._changed.notify_all()

    def move(self, identity: str, places: int) -> None:
        """Move a queued training by so many places among the queued ones; below 0 is earlier."""
        with self._changed:
            self._job(identity).refuse_unless(("queued",), "only those that wait can be moved")
            queued = [name for name, job in self._jobs.items() if job.record.state == "queued"]
            at = queued.index(identity)
            queued.insert(min(max(0, at + places), len(queued)), queued.pop(at))
            order = iter(queued)
            names = [next(order) if job.record.state == "queued" else old for old, job in self._jobs.items()]
            self._write_order(names)
            self._jobs = {name: self._jobs[name] for name in names}

    def remove(self, identity: str) -> None:
        """Forget a training with its images; the residual in the folder of residuals stays."""
        with self._changed:
            if identity in self._broken and not self._others():
                self._broken[identity].folder.remove()
                del self._broken[identity]
                return
            job = self._job(identity)
            job.refuse_unless((*OVER, "queued"), "stop or cancel it first")
            job.folder.remove()
            del self._jobs[identity]  # order.json may go on naming it: what is not there has no place

    def _job(self, identity: str) -> Job:
        """For a change of it."""
        self._refuse_others()
        if identity in self._broken:
            raise self._broken[identity].why
        if identity not in self._jobs:
            raise _unknown(identity)
        return self._jobs[identity]

    def _write_order(self, names: Sequence[str]) -> None:
        try:
            store.write_order(self.root, names)
        except OSError as error:
            raise PersresError(f"The queue cannot be kept in {self.root}: {error.strerror or error}.") from error

    # -- the worker

    def _work(self) -> None:
        try:
            while self._wait():
                with self.turn() as turn:
                    while turn.held and (job := self._take()) is not None:
                        self._run(job, turn)
                        if turn.wanted():  # between two trainings as between two steps
                            turn.give_way(lambda: self._closing)
        finally:
            self._lock.free()

    def _wait(self) -> bool:
        """Until there is something to do; False: until the end."""
        with self._changed:
            while not self._closing and (self._others() or self._next() is None):
                for job in self._jobs.values():
                    job.keep()
                hopes = self._others() or any(job.unwritten for job in self._jobs.values())
                self._changed.wait(PATIENCE if hopes else None)
            return not self._closing

    def _take(self) -> Job | None:
        """Only once it is the trainings' turn: while it was not, jobs may have been moved or cancelled."""
        with self._changed:
            for each in self._jobs.values():
                each.keep()
            job = None if self._closing else self._next()
            if job is not None:
                job.forget_wishes()
                job.put(state="running", message="")
            return job

    def _next(self) -> Job | None:
        return next((job for job in self._jobs.values() if job.record.state == "queued"), None)

    def _run(self, job: Job, turn: Turn) -> None:
        state, message = "failed", ""
        try:
            state = self._on_thread(lambda: self._train(job, turn))
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
            if state == "finished":
                job.folder.forget_state()  # the file has all of it
        if torch.cuda.is_available():  # an exception's traceback kept what it held until now
            torch.cuda.empty_cache()
        if message:
            print(f'persres: the training of "{job.request.concept}" failed: {message}')

    def _train(self, job: Job, turn: Turn) -> str:
        """The state that it ends in."""
        with self.lend(f"training {job.request.concept}", turn) as loan:
            return run(job, loan, self.residuals, self.state_every())


def _unknown(identity: str) -> PersresError:
    return PersresError(f"There is no training {str(identity)[:60]!r}.")
