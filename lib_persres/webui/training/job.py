"""One training of the queue: its record, what is wished of it while it runs, and how far it is."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from ...errors import PersresError
from .request import Request
from .store import JobFolder, Record

POINTS = 200
RESUMABLE = ("interrupted", "stopped", "failed")
OVER = ("finished", "stopped", "cancelled", "failed", "interrupted")
WISHES = ("stop", "cancel", "close", "save", "sample")


class Job:
    """Its record may be read from any thread; it is changed by the worker, or by others while it does not run."""

    def __init__(self, folder: JobFolder, record: Record):
        self.folder, self.record = folder, record
        self.request = Request.from_dict(record.request)
        self.memory: dict | None = None
        self.drawing: dict | None = None
        """{"done", "total"} of the pictures of the class, while the model draws them."""
        self._lock = threading.Lock()
        self._wishes: set[str] = set()
        self._clock: deque[tuple[float, int]] = deque(maxlen=20)

    @property
    def id(self) -> str:
        return self.folder.id

    # -- wishes of other threads

    def wish(self, what: str) -> None:
        with self._lock:
            self._wishes.add(what)

    def take(self, what: str) -> bool:
        """Whether it was wished; a wish is told once."""
        with self._lock:
            told = what in self._wishes
            self._wishes.discard(what)
            return told

    def wished(self, what: str) -> bool:
        with self._lock:
            return what in self._wishes

    def forget_wishes(self) -> None:
        with self._lock:
            self._wishes.clear()

    # -- how far it is

    def put(self, **values) -> None:
        """Change the record, here and on disk. A disk that is full must not end what the record tells of."""
        record = replace(self.record, **values)
        try:
            self.folder.write(record)
        except OSError as error:
            print(f"persres: the record of {self.request.concept} cannot be written: {error}")
        self.record = record  # now: what is told here is on the disk

    def begin_clock(self, done: int) -> None:
        self._clock.clear()
        self._clock.append((time.monotonic(), done))

    def progress(self, done: int, losses: Sequence[float], memory: dict | None) -> None:
        self._clock.append((time.monotonic(), done))
        self.record.done, self.record.curve, self.memory = done, curve(losses), memory

    def measure(self, rows: int, side: int, unet: int) -> None:
        """Keep the pace, by which the tab tells how long another training will take. rows: of a step."""
        if speed := self.steps_per_second():
            self.record.pace = {"row_seconds": 1 / (speed * rows), "side": side, "unet": unet}

    def steps_per_second(self) -> float | None:
        clock = list(self._clock)
        if self.record.state != "running" or len(clock) < 2 or clock[-1][0] <= clock[0][0]:
            return None
        return (clock[-1][1] - clock[0][1]) / (clock[-1][0] - clock[0][0])

    def status(self) -> dict:
        record, speed = self.record, self.steps_per_second()
        return {
            "id": self.id,
            "concept": self.request.concept,
            "macro_class": self.request.macro_class,
            "state": record.state,
            "done": record.done,
            "total": record.total,
            "stage": stage_of(record.stages, record.done),
            "drawing": self.drawing if record.state == "running" else None,
            "loss": list(record.curve),
            "steps_per_second": speed,
            "eta": (record.total - record.done) / speed if speed else None,
            "pace": record.pace,
            "message": record.message,
            "file": record.file,
            "name": record.name,
            "preview": self.folder.preview_paths(),
            "memory": self.memory if record.state == "running" else None,
            "request": self.request.to_dict(),
        }

    def refuse_unless(self, states: Sequence[str], what: str) -> None:
        if self.record.state not in states:
            raise PersresError(f'The training of "{self.request.concept}" is {self.record.state}: {what}.')


def stage_of(stages: Sequence[Sequence], done: int) -> dict | None:
    """{"number", "of", "targets", "done", "total"} of the stage that is at work, or of the last; None of a single one.

    stages: targets and steps of each.
    """
    if len(stages) < 2:
        return None
    for number, (targets, steps) in enumerate(stages, 1):
        if done < steps or number == len(stages):
            return {
                "number": number,
                "of": len(stages),
                "targets": targets,
                "done": min(done, steps),
                "total": steps,
            }
        done -= steps


def curve(losses: Sequence[float]) -> list[float]:
    """Means of equal parts, at most POINTS of them: the loss of a single step jumps with its timesteps."""
    stride = max(1, math.ceil(len(losses) / POINTS))
    parts = [losses[i : i + stride] for i in range(0, len(losses), stride)]
    return [round(sum(part) / len(part), 5) for part in parts]
