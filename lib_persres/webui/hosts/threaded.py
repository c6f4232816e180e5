"""The one thread that works with the models where they are Forge's."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from modules_forge import main_thread

Result = TypeVar("Result")


class Threaded:
    def on_thread(self, do: Callable[[], Result]) -> Result:
        if threading.current_thread() is threading.main_thread():
            return do()
        came: list[tuple[bool, Any]] = []

        def work() -> None:
            try:
                came.append((True, do()))
            except BaseException as error:  # it is the caller's, and must not end the host's thread
                came.append((False, error))

        main_thread.run_and_wait_result(work)
        done, what = came[0]
        if done:
            return what
        raise what

    def serve(self) -> None:
        while waiting := _waiting():
            with main_thread.lock:
                task = waiting[0]
                del waiting[0]
            try:
                task.work()
            except Exception:  # as the host's own loop
                traceback.print_exc()
            with main_thread.lock:
                _finish(task)


def _waiting():
    """The tasks in a row, for which Forge Neo had two names more; none where there is another still."""
    found = (getattr(main_thread, name, None) for name in ("waiting_list", "waiting_queue", "wait_queue"))
    tasks = next((each for each in found if each is not None), ())
    return getattr(tasks, "queue", tasks)


def _finish(task) -> None:
    """Let who waits for a task know, with the host's lock; some tasks do it themselves."""
    if hasattr(main_thread, "finished_tasks"):
        main_thread.finished_tasks[task.task_id] = task
        main_thread.condition.notify_all()
    elif hasattr(main_thread, "finished_list"):
        main_thread.finished_list.append(task)
