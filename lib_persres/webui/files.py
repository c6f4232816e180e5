"""The folder of residuals: which file a tag names, read again when it changed."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import PersresError
from ..residual import Metadata, Residual, file_hash
from .options import CACHE, DEFAULTS

SUFFIX = ".safetensors"
LISTED = 10


@dataclass(frozen=True)
class Entry:
    """A file. name: what a tag calls it, its stem, or its path in the folder where two files share the stem.

    metadata: None where the file cannot be read; loading it says why.
    """

    path: Path
    name: str
    inside: str
    """The path in the folder, without the suffix and with "/"."""
    stamp: tuple[int, int]
    metadata: Metadata | None


@dataclass(frozen=True, eq=False)
class Loaded:
    """A residual in memory and the file that it came from. hash: SHA-256 in hex."""

    entry: Entry
    residual: Residual
    hash: str

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def short_hash(self) -> str:
        return self.hash[:10]


class Shelf:
    """name or alias -> residual. The folder is read again where a name is not found and a file where it changed.

    limit: how many residuals stay in memory when nobody uses them.
    """

    def __init__(self, folder: Callable[[], Path], limit: Callable[[], int] = lambda: DEFAULTS[CACHE]):
        self.folder = folder
        self.limit = limit
        self._entries: list[Entry] | None = None
        self._entries_of: Path | None = None
        self._kept: dict[Path, Loaded] = {}
        """The last used one is the last."""
        self._alive: weakref.WeakValueDictionary[Path, Loaded] = weakref.WeakValueDictionary()
        """Those that a generation still uses, too, so that none is in memory twice."""
        self._hashes: dict[Path, tuple[tuple[int, int], str]] = {}

    def refresh(self) -> list[Entry]:
        """Read the folder; a file that did not change keeps what is known of it."""
        folder = Path(self.folder())
        known = {entry.path: entry for entry in self._entries or ()}
        paths = []
        for parent, _, names in os.walk(folder, followlinks=True):
            paths += [Path(parent, name) for name in names if name.endswith(SUFFIX)]
        stems = [path.stem for path in paths]
        entries = []
        for path in sorted(paths):
            stamp = _stamp(path)
            if stamp is None:
                continue
            inside = path.relative_to(folder).with_suffix("").as_posix()
            name = path.stem if stems.count(path.stem) == 1 else inside
            old = known.get(path)
            metadata = old.metadata if old is not None and old.stamp == stamp else _metadata(path)
            entries.append(Entry(path, name, inside, stamp, metadata))
        self._entries, self._entries_of = entries, folder
        return entries

    @property
    def entries(self) -> list[Entry]:
        return self._entries if self._is_read() else self.refresh()

    def _is_read(self) -> bool:
        return self._entries is not None and self._entries_of == Path(self.folder())

    def find(self, name: str) -> Entry:
        """The file that a tag names: by path in the folder, by stem, or by alias (the concept's own name)."""
        known = self._is_read()
        found = self.matches(name, self.entries)
        if known and (len(found) != 1 or _stamp(found[0].path) != found[0].stamp):
            found = self.matches(name, self.refresh())
        if len(found) > 1:
            names = ", ".join(entry.inside for entry in found[:LISTED])
            raise PersresError(f'"{name}" is the name of {len(found)} residuals: write one of {names} in the tag.')
        if not found:
            raise PersresError(f'There is no residual "{name}" in {self.folder()}: {self._contents()}.')
        return found[0]

    def load(self, name: str) -> Loaded:
        """The residual that a tag names, or PersresError with one sentence."""
        entry = self.find(name)
        loaded = self._alive.get(entry.path)
        self._kept.pop(entry.path, None)
        if loaded is None or loaded.entry.stamp != entry.stamp:
            loaded = Loaded(entry, Residual.load(entry.path), self.hash(entry))
            self._alive[entry.path] = loaded
        self._kept[entry.path] = loaded
        self.trim()
        return loaded

    def trim(self) -> None:
        """Let go of those that were not used for the longest time, down to the limit."""
        while len(self._kept) > self.limit():
            del self._kept[next(iter(self._kept))]

    def hash(self, entry: Entry) -> str:
        """SHA-256 of the file, computed once for each version of it."""
        stamp, digest = self._hashes.get(entry.path, (None, ""))
        if stamp != entry.stamp:
            digest = file_hash(entry.path)
            self._hashes[entry.path] = entry.stamp, digest
        return digest

    def by_hash(self, digits: str) -> Entry | None:
        """The file whose hash begins with these digits."""
        for entry in self.refresh():
            try:
                if digits and self.hash(entry).startswith(digits):
                    return entry
            except PersresError:  # it vanished, or may not be read
                continue
        return None

    @staticmethod
    def matches(name: str, entries: list[Entry]) -> list[Entry]:
        """Those of the entries that a tag with this name may mean."""
        wanted = name.removesuffix(SUFFIX).replace("\\", "/")
        for key in (
            lambda entry: entry.inside,
            lambda entry: entry.path.stem,
            lambda entry: entry.metadata.concept if entry.metadata else None,
        ):
            found = [entry for entry in entries if key(entry) == wanted]
            if found:
                return found
        return []

    def _contents(self) -> str:
        names = sorted(entry.name for entry in self.entries)
        if not names:
            return "the folder holds none, put the file there or train a concept"
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        return f"it holds {', '.join(names[:LISTED])}{more}"


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _metadata(path: Path) -> Metadata | None:
    try:
        return Residual.read_metadata(path)
    except PersresError:
        return None
