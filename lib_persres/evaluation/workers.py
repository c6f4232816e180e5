"""Pieces done by processes of this machine: each takes one after the other, and a new one comes for each that dies."""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import SimpleQueue

from ..errors import PersresError
from .piece import Piece, Progress, work

MOST_DEATHS = 3
"""Workers that may die of one piece before it is given up: it then needs more memory than there is."""

Report = Callable[[str, str | None], None]
"""(a piece's name, None or what went wrong)"""


def run_here(pieces: Iterable[Piece], report: Report, progress: Progress | None = None) -> None:
    """One after the other, in this process."""
    for piece in pieces:
        report(piece.name, tried(piece, progress))


def run_local(pieces: Iterable[Piece], count: int, report: Report) -> None:
    """By `count` processes. A worker that dies costs its piece's unfinished step: another goes on with the piece."""
    workers = [_Worker() for _ in range(count)]
    free: SimpleQueue[_Worker] = SimpleQueue()
    for worker in workers:
        free.put(worker)

    def follow(piece: Piece) -> str | None:
        worker = free.get()
        try:
            for _ in range(MOST_DEATHS):
                try:
                    return worker.do(piece)
                except (EOFError, OSError):
                    worker.kill()
            return f"its worker died {MOST_DEATHS} times (is the memory full?)"
        finally:
            free.put(worker)

    threads = ThreadPoolExecutor(count)
    try:
        names = {threads.submit(follow, piece): piece.name for piece in pieces}
        for done in as_completed(names):
            report(names[done], done.result())
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.kill(for_good=True)


class _Worker:
    """A process, begun when there is something to do."""

    process: BaseProcess | None = None
    over = False

    def do(self, piece: Piece) -> str | None:
        """What went wrong with the piece. EOFError or OSError where the process died."""
        if self.over:
            return "it was stopped."
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.connection, theirs = context.Pipe()
            self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
            self.process.start()
            theirs.close()
        self.connection.send(piece)
        return self.connection.recv()

    def kill(self, for_good: bool = False) -> None:
        self.over |= for_good
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.join()


def _serve(connection: Connection) -> None:
    threading.Thread(target=_follow_parent, daemon=True).start()
    while True:
        connection.send(tried(connection.recv()))


def _follow_parent() -> None:
    """A killed run leaves no workers behind that would still write."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # it was spawned
    wait([parent.sentinel])
    os._exit(1)


def tried(piece: Piece, progress: Progress | None = None) -> str | None:
    """Do it; what went wrong in one sentence, or a fault of ours with its traceback."""
    try:
        work(piece, progress)
    except PersresError as error:
        return str(error)
    except Exception:
        return traceback.format_exc()
    return None
