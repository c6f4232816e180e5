"""The WebUI's queue, and the job that its page shows: the same in every WebUI of the line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from modules import call_queue, progress, shared

RESTARTING = "persres_restarting"
Result = TypeVar("Result")


class Work:
    def queue_lock(self):
        """Who uses the model holds it."""
        return call_queue.queue_lock

    def waiting_tasks(self):
        """The ids of what pages and programs wait for."""
        return progress.pending_tasks

    @contextlib.contextmanager
    def job(self, title: str) -> Iterator[None]:
        """The job that the WebUI's progress shows and its Interrupt ends."""
        state = shared.state
        state.begin(job=title)
        state.job_count = 1
        try:
            yield
        finally:
            state.skipped = state.interrupted = state.stopping_generation = False
            state.textinfo = None
            state.end()

    def progress(self, title: str, done: int, total: int, text: str) -> None:
        state = shared.state
        # a generation that ended clears its job's traces after it has let go of the queue
        state.job, state.job_count = title, 1
        state.sampling_step, state.sampling_steps = done, total
        state.textinfo = f"{title}: {text}"

    def interrupted(self) -> bool:
        return shared.state.interrupted or shared.state.stopping_generation

    def interrupt(self) -> None:
        shared.state.interrupt()

    def forget_skip(self) -> None:
        shared.state.skipped = False

    def job_began(self) -> float | None:
        """When the job of now did; None where there is none."""
        return shared.state.time_start if shared.state.job else None

    def last_began(self) -> float:
        """The same of the job of now or the last one."""
        return shared.state.time_start

    def watch_restarts(self) -> None:
        """From now on `restarting` tells Reload UI from an Interrupt, as which everything that runs is told of it. To
        be called whenever the scripts are loaded."""
        state = shared.state
        if not hasattr(state, RESTARTING):
            request = state.request_restart

            def noted():
                setattr(state, RESTARTING, True)
                request()

            state.request_restart = noted
        setattr(state, RESTARTING, False)

    def restarting(self) -> bool:
        """Whether a reload was asked for and the scripts were not loaded again since."""
        return getattr(shared.state, RESTARTING, False)

    # -- the thread that the model belongs to

    def on_thread(self, do: Callable[[], Result]) -> Result:
        """Do it where the WebUI works with its model. To be called by who holds the queue's lock."""
        return do()

    def serve(self) -> None:
        """Do what waits for that thread; a training calls it there while it lets others go first."""
