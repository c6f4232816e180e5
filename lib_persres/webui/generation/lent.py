"""What the WebUI is lent while it works for a job, and what is gone when the outermost of its uses ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class Lent:
    """renew: lend it, or lend it again where the WebUI has changed. take_back: leave nothing of it."""

    def __init__(self) -> None:
        self._depth = 0

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        self._depth += 1
        try:
            self.renew()
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._take_back()

    def renew(self) -> None:
        raise NotImplementedError

    def _take_back(self) -> None:
        raise NotImplementedError
