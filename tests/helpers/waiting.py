"""Threads that wait for a lock, and waiting for what others do."""

import threading
import time


class Waiting:
    """Threads that wait for the lock, as generations do. done: their names in the order in which they had it."""

    def __init__(self, lock):
        self.lock, self.done, self.threads = lock, [], []

    def add(self, name, work=lambda: None):
        def run():
            with self.lock:
                work()
                self.done.append(name)

        before = len(self.lock._pending_threads)
        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()
        until(lambda: len(self.lock._pending_threads) > before)

    def join(self):
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
