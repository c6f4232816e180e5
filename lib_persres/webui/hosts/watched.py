"""Hooks on the calls of what is no module."""

from __future__ import annotations

from collections.abc import Callable


class Watched:
    """A reader, which is no module, with hooks on its calls until `remove`."""

    def __init__(self, reader, before: Callable, after: Callable):
        self._reader, self._own = reader, type(reader)

        class Hooked(self._own):  # type: ignore[name-defined]
            def __call__(self, *args):
                try:
                    given = before(self, args)
                    return super().__call__(*(args if given is None else given))
                finally:
                    after(self, args, None)

        reader.__class__ = Hooked

    def remove(self) -> None:
        self._reader.__class__ = self._own
