"""One training of the queue: its record, what is wished of it while it runs, and how far it is."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from ...errors import PersresError
from ..json_file import encodable
from .record import Record
from .request import Request
from .store import JobFolder

POINTS = 200
RESUMABLE = ("interrupted", "stopped", "failed")
OVER = ("finished", "stopped", "cancelled", "failed", "interrupted")
WISHES = ("stop", "cancel", "close", "save", "sample")
PAUSED = "Paused while an image is drawn."


class Job:
    """Its record may be read from any thread; it is changed by the worker, or by others while it does not run."""

    def __init__(self, folder: JobFolder, record: Record):
        self.folder, self.record = folder, record
        self.request = Request.from_dict(record.request)
        self.memory: dict | None = None
        self.drawing: dict | None = None
        """{"done", "total"} of the pictures of the class, while the model draws them."""
        self.paused = False
        """Whether the model is lent to those who wait for it."""
        self.unwritten = ""
        """Why what is told here is not on the disk yet."""
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

    def change(self, **values) -> None:
        """Change the record, on disk and here. PersresError where the disk does not take it, and nothing changes."""
        record = replace(self.record, **values)
        try:
            self.folder.write(record)
        except OSError as error:
            raise PersresError(
                f'The training of "{self.request.concept}" stays as it is, since {self.folder.path} cannot be written: '
                f"{error.strerror or error}."
            ) from error
        self.record, self.unwritten = record, ""  # now: what is told here is on the disk

    def put(self, **values) -> None:
        """The same of what happened already: a disk that is full must not end what the record tells of; it is written
        as soon as there is room, see `keep`."""
        try:
            self.change(**values)
        except PersresError as error:
            cause = error.__cause__
            reason = str(getattr(cause, "strerror", None) or cause)
            self.record = replace(self.record, **values)
            self.unwritten = f"This is not on the disk yet ({reason}): make room."

    def keep(self) -> None:
        """Write what could not be written before."""
        if self.unwritten:
            self.put()

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
        if self.record.state != "running" or self.paused or len(clock) < 2 or clock[-1][0] <= clock[0][0]:
            return None
        return (clock[-1][1] - clock[0][1]) / (clock[-1][0] - clock[0][0])

    def status(self) -> dict:
        record, speed = self.record, self.steps_per_second()
        paused = self.paused and record.state == "running"
        sentences = (record.message, PAUSED if paused else "", self.unwritten)
        status = {
            "id": self.id,
            "concept": self.request.concept,
            "macro_class": self.request.macro_class,
            "state": record.state,
            "paused": paused,
            "done": record.done,
            "total": record.total,
            "stage": stage_of(record.stages, record.done),
            "drawing": self.drawing if record.state == "running" else None,
            "loss": list(record.curve),
            "steps_per_second": speed,
            "eta": (record.total - record.done) / speed if speed else None,
            "pace": record.pace,
            "message": " ".join(sentence for sentence in sentences if sentence),
            "file": record.file,
            "name": record.name,
            "preview": self.folder.preview_paths(),
            "memory": self.memory if record.state == "running" else None,
            "request": self.request.to_dict(),
        }
        return encodable(status)

    def refuse_unless(self, states: Sequence[str], what: str) -> None:
        if self.record.state not in states:
            raise PersresError(f'The training of "{self.request.concept}" is {self.record.state}: {what}.')


class Broken:
    """A training whose record cannot be read: it is named among the others, and may be removed."""

    def __init__(self, folder: JobFolder, why: PersresError):
        self.folder, self.why = folder, why

    def status(self) -> dict:
        nothing = dict.fromkeys(("stage", "drawing", "steps_per_second", "eta", "file", "name", "memory"))
        return {
            **{"id": self.folder.id, "concept": self.folder.id, "macro_class": "", "state": "failed", "paused": False},
            **{"done": 0, "total": 0, "loss": [], "preview": [], "request": {}, **nothing},
            "message": f"{self.why} It is left out: mend its folder, or remove it.",
        }


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
    return None


def curve(losses: Sequence[float]) -> list[float]:
    """Means of equal parts, at most POINTS of them: the loss of a single step jumps with its timesteps."""
    stride = max(1, math.ceil(len(losses) / POINTS))
    parts = [losses[i : i + stride] for i in range(0, len(losses), stride)]
    return [round(sum(part) / len(part), 5) for part in parts]
