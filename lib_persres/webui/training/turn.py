"""Whose turn it is to use the model: a worker in the WebUI's own queue, who lets those who wait go first."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

POLL = 0.05
"""Seconds between two looks while others are at work."""
COURTESY = 0.05
"""Seconds left to a thread that was woken and is not in yet: the WebUI's lock lets in whoever comes just then."""
TRIES = 3
"""So often a task that waits is given way to in vain, until it is taken for one that broke off."""


class Turn:
    """The WebUI's queue lock, held within `with`, and handed over in between to those who wait for it.

    lock: a FIFOLock of the WebUI's; of another lock nobody is known to wait. tasks: the ids of the tasks that the
    WebUI's pages and API wait for, which tells of those that the lock itself no longer lists. gives_way: the setting.
    """

    def __init__(self, lock, tasks: Callable[[], Iterable[str]] = tuple, gives_way: Callable[[], bool] = lambda: True):
        self._lock, self._tasks, self._gives_way = lock, tasks, gives_way
        self._in_vain: dict[str, int] = {}
        self.held = False

    def __enter__(self) -> Turn:
        self._lock.acquire()
        self.held = True
        return self

    def __exit__(self, *_) -> None:
        if self.held:
            self.held = False
            self._lock.release()

    def wanted(self) -> bool:
        """Whether somebody waits who is to go first."""
        if not self.held or not hasattr(self._lock, "_pending_threads") or not self._gives_way():
            return False
        return bool(self._lock._pending_threads) or any(
            self._in_vain.get(task, 0) < TRIES for task in list(self._tasks())
        )

    def give_way(
        self, leave: Callable[[], bool] = lambda: False, meanwhile: Callable[[], object] = lambda: None
    ) -> bool:
        """Let all who wait go first; those who come later come after this worker, so that it gets on, too.

        leave: asked while others are at work; where it turns true, the turn is given up. meanwhile: called as often.
        Returns whether the turn is held again.
        """
        waiting = list(self._tasks())
        mine = threading.Event()
        with self._lock._inner_lock:  # behind the others before they are let in, which `acquire` would not do
            self._lock._pending_threads.append(mine)
        self.held = False
        self._lock.release()
        while not mine.wait(POLL):
            meanwhile()
            if leave() and self._withdraw(mine):
                return False
        time.sleep(COURTESY)
        while not self._lock._lock.acquire(timeout=POLL):
            meanwhile()
            if leave():
                return False
        self.held = True
        still = set(self._tasks())
        self._in_vain = {task: self._in_vain.get(task, 0) + 1 for task in waiting if task in still}
        return True

    def _withdraw(self, mine: threading.Event) -> bool:
        """Whether it was not woken yet: who was woken has to take the lock, so that its release wakes the next."""
        with self._lock._inner_lock:
            if mine in self._lock._pending_threads:
                self._lock._pending_threads.remove(mine)
                return True
        return False
