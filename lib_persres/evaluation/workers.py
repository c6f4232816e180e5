"""Pieces done by processes of this machine: a queue, and a new worker for each that dies."""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, wait

from ..errors import PersresError
from .jobs import Job, work

MOST_DEATHS = 3
"""Workers that may die of one piece before it is given up: it then needs more memory than there is."""

Report = Callable[[str, str | None], None]
"""(a piece's name, None or what went wrong)"""


def run_here(pieces: Iterable[Job], report: Report) -> None:
    """One after the other, in this process."""
    for piece in pieces:
        report(piece.name, tried(piece))


def run_local(pieces: Iterable[Job], count: int, report: Report) -> None:
    """By `count` processes. A worker that dies costs its piece's unfinished step: another goes on with the piece."""
    queue = deque(pieces)
    deaths: dict[str, int] = {}
    workers: list[_Worker] = []
    try:
        while queue or workers:
            while queue and len(workers) < count:
                workers.append(_Worker(queue.popleft()))
            by_handle = {}
            for worker in workers:
                by_handle[worker.connection] = by_handle[worker.process.sentinel] = worker
            for worker in {id(w): w for w in map(by_handle.get, wait(list(by_handle)))}.values():
                piece, (answered, problem) = worker.piece, worker.answer()
                if not answered:
                    worker.stop()
                    workers.remove(worker)
                    deaths[piece.name] = deaths.get(piece.name, 0) + 1
                    if deaths[piece.name] < MOST_DEATHS:
                        queue.appendleft(piece)
                        continue
                    problem = f"its worker died {MOST_DEATHS} times (is the memory full?)"
                    report(piece.name, problem)
                    continue
                report(piece.name, problem)
                if queue:
                    worker.give(queue.popleft())
                else:
                    worker.stop()
                    workers.remove(worker)
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that does one piece after the other, and the piece that it has."""

    def __init__(self, piece: Job):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.give(piece)

    def give(self, piece: Job) -> None:
        self.piece = piece
        try:
            self.connection.send(piece)
        except OSError:
            pass  # it is dead already: `answer` will tell

    def answer(self) -> tuple[bool, str | None]:
        """(whether it answered, what went wrong with the piece)"""
        try:
            return (True, self.connection.recv()) if self.connection.poll() else (False, None)
        except (EOFError, OSError):
            return False, None

    def stop(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


def _serve(connection: Connection) -> None:
    threading.Thread(target=_follow_parent, daemon=True).start()
    while True:
        try:
            piece = connection.recv()
        except EOFError:
            return
        connection.send(tried(piece))


def _follow_parent() -> None:
    """A killed run leaves no workers behind that would still write."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def tried(piece: Job) -> str | None:
    """Do it; what went wrong in one sentence, or a fault of ours with its traceback."""
    try:
        work(piece)
    except PersresError as error:
        return str(error)
    except Exception:
        return traceback.format_exc()
    return None
