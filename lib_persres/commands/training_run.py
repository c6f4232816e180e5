"""A training at work: its bar, its state on disk now and then, and what ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from ..errors import PersresError
from ..progress import Bar, progress_bar
from ..training.recipe import Recipe
from .common import note
from .training_files import TrainingFiles

if TYPE_CHECKING:
    from ..training.trainer import Trainer

ENDING = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
SELDOM, SHARE = 60.0, 20.0
"""Without --save-every: seconds between two states at least, and how many times what the last took to write."""


class Ended(KeyboardInterrupt):
    """By a signal, before there was anything to keep, or by a second one. status: the command's."""

    def __init__(self, number: int):
        super().__init__()
        self.status = 128 + number


class TrainingRun:
    """A context manager around the steps; within it the first signal ends them after the step that is made.

    every: steps between two states on disk; 0: none but at an early end; None: so seldom that it costs little.
    ended_by: the signal that ended it, or None. seconds: from the first step to the last.

    The loop asks `should_stop` before each step, so the bar's clock starts with the first step and not with the
    encoding of the photos.
    """

    def __init__(self, recipe: Recipe, files: TrainingFiles, every: int | None = None):
        self.recipe, self.files, self.every = recipe, files, every
        self.ended_by: int | None = None
        self.seconds = 0.0
        self.trainer: Trainer | None = None
        self._bar: Bar | None = None
        self._pictures: Bar | None = None
        self._losses: deque[float] = deque(maxlen=20)
        self._started = 0.0
        self._before: dict[int, Any] = {}  # as signal.signal gives and takes them
        self._to_draw = 0
        self._saved, self._next = -1, time.monotonic() + SELDOM

    def __enter__(self) -> TrainingRun:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handler
            for number in (getattr(signal, name) for name in ENDING):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # ignored, as under nohup, or not Python's
                    self._before[number] = signal.signal(number, self._end)
        return self

    def __exit__(self, kind, error, trace) -> None:
        for bar in (self._pictures, self._bar):
            if bar is not None:
                bar.close()
        try:
            if error is not None:
                self._keep_after(error)
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    @property
    def _begun(self) -> Trainer:
        assert self.trainer is not None  # of `begin`
        return self.trainer

    # -- what the loop calls

    def begin(self, trainer: Trainer) -> None:
        """With the trainer before its first step; it goes on from a state where that is wanted."""
        self.trainer, self._to_draw = trainer, trainer.to_draw
        if self.files.resume:
            trainer.load_state(self.files.state)
            self._saved = trainer.done
            left = f", with {trainer.to_draw} pictures of the class left to draw" if trainer.to_draw else ""
            note(f"Going on from step {trainer.done} of {self.recipe.steps}{left}")
        else:
            self.files.forget_state()

    def drawing(self, drawn: int, count: int) -> None:
        """Pictures of the class, by the model."""
        if self._pictures is None:
            self._pictures = progress_bar(count, "pictures", "drawing pictures of the class")
            self._pictures.set_description_str("drawing pictures of the class")
        self._pictures.update(drawn - self._pictures.n)
        if drawn == count:
            self._pictures.close()

    def should_stop(self) -> bool:
        if self._bar is None:
            self._bar, self._started = progress_bar(self.recipe.steps, "steps"), time.monotonic()
            self._bar.update(self._begun.done)
        return self.ended_by is not None

    def after_step(self, loss: float) -> None:
        done, bar = self._begun.done, self._bar
        assert bar is not None  # of `should_stop`
        self.seconds = time.monotonic() - self._started
        self._losses.append(loss)
        if len(self.recipe.stages) > 1:
            bar.set_description_str(self.recipe.place(done), refresh=False)
        # the loss of a step jumps with its timesteps: the mean of the last ones shows where it goes
        bar.set_postfix_str(f"loss {sum(self._losses) / len(self._losses):.4f}", refresh=False)
        bar.update(done - bar.n)
        if done < self.recipe.steps and self._is_due(done):
            self.save_state()

    # -- the state

    def _is_due(self, done: int) -> bool:
        if self.every is not None:
            return bool(self.every) and done % self.every == 0
        return time.monotonic() >= self._next

    def save_state(self) -> bool:
        """Whether it could be written; a disk that is full ends no training."""
        trainer, begun = self._begun, time.monotonic()
        try:
            trainer.save_state(self.files.state)
        except PersresError as error:
            note(f"\nwarning: The training cannot be resumed from here: {error}")
        else:
            self._saved = trainer.done
        now = time.monotonic()
        self._next = now + max(SELDOM, SHARE * (now - begun))
        return self._saved == trainer.done

    def how_to_resume(self) -> str:
        return f"Give the same command with --resume to go on from step {self._saved} ({self.files.state})."

    def _keep_after(self, error: BaseException) -> None:
        """What was made until an error or a signal is not lost; a second signal gives it up."""
        trainer = self.trainer
        with contextlib.suppress(KeyboardInterrupt):
            gives_up = self.ended_by is not None and isinstance(error, KeyboardInterrupt)
            made = trainer is not None and (trainer.done > max(self._saved, 0) or trainer.to_draw < self._to_draw)
            if made and not gives_up:
                self.save_state()
            if self._saved >= 0 and self.files.state.is_file():
                note(self.how_to_resume())

    def _end(self, number: int, frame) -> None:
        if self.ended_by is not None or self.trainer is None or not self.trainer.done:
            raise Ended(number)
        self.ended_by = number
        # os.write, since print may not be called while the bar is being printed
        os.write(2, b"\nStopping after this step and keeping what was learned; once more gives up.\n")
