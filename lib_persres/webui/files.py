"""The folder of residuals in the WebUI."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from pathlib import Path

from ..names import SUFFIX
from ..residual_folder import Entry, Loaded, ResidualFolder
from .options import CACHE, DEFAULTS

__all__ = ["SUFFIX", "Entry", "Loaded", "Shelf"]


class Shelf(ResidualFolder):
    """The setting says how many residuals stay in memory; the WebUI's cache keeps the hashes."""

    def __init__(
        self,
        folder: Callable[[], Path],
        limit: Callable[[], int] = lambda: DEFAULTS[CACHE],
        hashes: MutableMapping[str, str] | None = None,
    ):
        super().__init__(folder, limit, hashes)
