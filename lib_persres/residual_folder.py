"""The folder of residuals: which file a tag names, for the WebUI and for the command line alike."""

from __future__ import annotations

import bisect
import contextlib
import difflib
import os
import threading
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from .errors import PersresError, readable
from .names import SUFFIX, one_form
from .residual import MAX_FILE, Metadata, Residual, concept_of, file_hash
from .residual_listing import Listing, Stamp, stamp_of

LISTED = 10
KEPT = 16
SWEPT = 1000
"""So many files are all looked at where a name is missing; of more only the folders, which change with a new name."""
NEIGHBOURS = 25
"""On each side of where a missing name would stand in the alphabet."""
LONGEST_GUESS = 255


@dataclass(frozen=True)
class Reader:
    """How the folder's files are read; of other kinds, too, where somebody says so."""

    load: Callable[[Path], Residual] = Residual.load
    outline: Callable[[Path], Residual] = Residual.outline
    """The same without its numbers."""
    metadata: Callable[[Path], Metadata] = Residual.read_metadata


@dataclass(frozen=True)
class Entry:
    """A file. name: what a tag calls it, its stem, or its path in the folder where two files share the stem.

    Names are in their one form, unless only the form tells two files apart.
    """

    path: Path
    name: str
    inside: str
    """The path in the folder, without the suffix and with "/"."""
    stamp: Stamp
    concept: str = ""
    """The concept's own name, an alias; "" where the file cannot be read."""
    reader: Reader = field(default_factory=lambda: Reader(), compare=False)

    @cached_property
    def metadata(self) -> Metadata | None:
        """Without the picture, which stays in the file; None where the file cannot be read: loading it says why."""
        try:
            return replace(self.reader.metadata(self.path), preview=None)
        except PersresError:
            return None


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


class ResidualFolder:
    """name or alias -> residual. The folder is read again where it changed, and a file where it did.

    Threads may share it: its tables have a lock, which nobody holds while tensors are read or hashed.

    limit: how many residuals stay in memory when nobody uses them. hashes: path -> what `_kept_hash` writes; one that
    outlives the process spares it hashing. anywhere: a name may be a path outside of the folder. advice: what to do
    where the folder has nothing. reader: of its files.
    """

    def __init__(
        self,
        folder: Callable[[], Path],
        limit: Callable[[], int] = lambda: KEPT,
        hashes: MutableMapping[str, str] | None = None,
        anywhere: bool = False,
        advice: str = "put the file there or train a concept",
        reader: Reader | None = None,
    ):
        self.folder, self.limit, self.anywhere, self.advice = folder, limit, anywhere, advice
        self.reader = reader or Reader()
        self._lock = threading.RLock()
        self._listing: Listing | None = None
        self._entries: list[Entry] = []
        self._index = _Index(())
        self._loaded: dict[Path, Loaded] = {}
        """The last used one is the last."""
        self._alive: weakref.WeakValueDictionary[Path, Loaded] = weakref.WeakValueDictionary()
        """Those that a generation still uses, too, so that none is in memory twice."""
        self._hashes: dict[Path, tuple[Stamp, str | None]] = {}
        self._lasting = {} if hashes is None else hashes

    # -- the files

    def refresh(self) -> list[Entry]:
        """Read the folder; a file that did not change keeps what is known of it."""
        with self._lock:
            listing = Listing.of(Path(self.folder()))
            known = {str(entry.path): entry for entry in self._entries}
            self._entries = _entries(listing, known, self.reader)
            self._index = _Index(self._entries)
            self._listing = listing
            return self._entries

    @property
    def entries(self) -> list[Entry]:
        """The files, in the order of their paths; read again where one came or went."""
        with self._lock:
            listing = self._listing
            if listing is None or listing.folder != Path(self.folder()) or not listing.is_current():
                return self.refresh()
            return self._entries

    def find(self, name: str) -> Entry:
        """The file that a tag names: by path in the folder, by stem, or by alias (the concept's own name)."""
        with self._lock:
            found = self.matches(name) if self.entries else []
            written_over = len(found) == 1 and stamp_of(found[0].path) != found[0].stamp
            # a file that was written over, under its old name, may have got this one as its alias
            if written_over or (len(found) != 1 and len(self._entries) <= SWEPT):
                self.refresh()
                found = self.matches(name)
            if not found and (outside := self._outside(name)):
                return outside
            if len(found) > 1:
                names = ", ".join(entry.inside for entry in found[:LISTED])
                raise PersresError(f'"{name}" is the name of {len(found)} residuals: write one of {names} in the tag.')
            if not found:
                raise PersresError(self._missing(name))
            return found[0]

    def matches(self, name: str) -> list[Entry]:
        """Those of the files, as they were when the folder was last read, that a tag with this name may mean."""
        with self._lock:
            return self._index.find(name)

    def _outside(self, name: str) -> Entry | None:
        if not self.anywhere or not ("/" in name or "\\" in name or name.endswith(SUFFIX)):
            return None
        path = Path(name if name.endswith(SUFFIX) else name + SUFFIX)
        stamp = stamp_of(path)
        if stamp is None:
            raise PersresError(f"There is no residual {path}, neither here nor in {self.folder()}.")
        return Entry(path, path.stem, path.with_suffix("").as_posix(), stamp, reader=self.reader)

    def near(self, name: str) -> str | None:
        """The name that this one may be meant for."""
        return self._index.near(name)

    def _missing(self, name: str) -> str:
        near = self.near(name)
        guess = f' (did you mean "{near}"?)' if near else ""
        return f'There is no residual "{readable(name, 60)}"{guess} in {self.folder()}: {self._contents()}.'

    def _contents(self) -> str:
        folder = Path(self.folder())
        names = sorted(entry.name for entry in self._entries)
        if not names:
            if folder.is_file():
                return "that is a file, give the folder that it is in"
            return f"the folder {'holds none' if folder.is_dir() else 'does not exist'}, {self.advice}"
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        return f"it holds {', '.join(names[:LISTED])}{more}"

    # -- residuals

    def load(self, name: str) -> Loaded:
        """The residual that a tag names, or PersresError with one sentence."""
        entry = self.find(name)
        with self._lock:
            loaded = self._alive.get(entry.path)
        if loaded is None or loaded.entry.stamp != entry.stamp:
            loaded = Loaded(entry, self.reader.load(entry.path), self.hash(entry))
        with self._lock:
            other = self._alive.get(entry.path)
            if other is not None and other.entry.stamp == entry.stamp:
                loaded = other  # another thread was faster
            self._alive[entry.path] = loaded
            self._loaded.pop(entry.path, None)
            self._loaded[entry.path] = loaded
            self.trim()
        return loaded

    def trim(self) -> None:
        """Let go of those that were not used for the longest time, down to the limit."""
        with self._lock:
            while len(self._loaded) > self.limit():
                del self._loaded[next(iter(self._loaded))]

    # -- hashes

    def hash(self, entry: Entry) -> str:
        """SHA-256 of the file, computed once for each version of it. PersresError where it cannot be read, or is too
        large to be a residual."""
        digest = self.known_hash(entry)
        if digest is None:
            if entry.stamp.size > MAX_FILE:
                raise PersresError(f"{entry.path} is larger than {MAX_FILE >> 20} MiB.")
            digest = file_hash(entry.path)
            if stamp_of(entry.path) == entry.stamp:
                self._keep_hash(entry, digest)
        return digest

    def known_hash(self, entry: Entry) -> str | None:
        """The hash where it is known already."""
        with self._lock:
            stamp, digest = self._hashes.get(entry.path, (None, None))
        if stamp == entry.stamp:
            return digest
        digest = None
        with contextlib.suppress(Exception):  # a cache on disk may be damaged: then it is computed again
            mtime, size, kept = str(self._lasting.get(os.path.abspath(entry.path)) or "").split()
            digest = kept if (int(mtime), int(size)) == (entry.stamp.mtime, entry.stamp.size) else None
        with self._lock:
            self._hashes[entry.path] = entry.stamp, digest
        return digest

    def _keep_hash(self, entry: Entry, digest: str) -> None:
        with self._lock:
            self._hashes[entry.path] = entry.stamp, digest
        with contextlib.suppress(Exception):  # the disk is full
            self._lasting[os.path.abspath(entry.path)] = f"{entry.stamp.mtime} {entry.stamp.size} {digest}"

    def by_hash(self, digits: str) -> Entry | None:
        """The file whose hash begins with these digits."""
        entries = self.refresh() if digits else []
        # first those whose hash is known, then those that can be residuals
        for entry in entries:
            if (self.known_hash(entry) or "").startswith(digits):
                return entry
        for entry in entries:
            if self.known_hash(entry) is None and entry.metadata is not None:
                with contextlib.suppress(PersresError):  # it vanished, or may not be read
                    if self.hash(entry).startswith(digits):
                        return entry
        return None


def _entries(listing: Listing, known: dict[str, Entry], reader: Reader) -> list[Entry]:
    insides = {path: listing.inside(path) for path in listing.files}
    forms = Counter(map(one_form, insides.values()))
    for path, inside in insides.items():
        if not inside.isascii() and forms[one_form(inside)] == 1:
            insides[path] = one_form(inside)
    stems = Counter(map(_stem, insides.values()))
    entries = []
    for path, stamp in listing.files.items():
        inside = insides[path]
        name = inside.rpartition("/")[2] if stems[_stem(inside)] == 1 else inside
        old = known.get(path)
        if old is None or old.stamp != stamp:
            entries.append(Entry(Path(path), name, inside, stamp, concept_of(path), reader))
        elif (old.name, old.inside) != (name, inside):
            entries.append(Entry(Path(path), name, inside, stamp, old.concept, reader))
        else:
            entries.append(old)
    return entries


def _stem(inside: str) -> str:
    return one_form(inside.rpartition("/")[2])


class _Index:
    """The entries by what tags may call them, and the names in two alphabets: as they are, and from their ends."""

    def __init__(self, entries: Iterable[Entry]):
        self._insides: dict[str, list[Entry]] = defaultdict(list)
        self._stems: dict[str, list[Entry]] = defaultdict(list)
        self._concepts: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            self._insides[entry.inside].append(entry)
            self._stems[_stem(entry.inside)].append(entry)
            if entry.concept:
                self._concepts[entry.concept].append(entry)
        names = {name.casefold(): name for name in (*self._concepts, *self._stems, *self._insides)}
        self._alphabet = sorted(names.items())
        self._backwards = sorted((key[::-1], name) for key, name in names.items())

    def find(self, name: str) -> list[Entry]:
        exact = name.removesuffix(SUFFIX).replace("\\", "/")
        wanted = one_form(exact)
        for table, key in ((self._insides, exact), (self._insides, wanted), (self._stems, wanted)):
            if key in table:
                return table[key]
        return self._concepts.get(wanted, [])

    def near(self, name: str) -> str | None:
        """The name that this one may be meant for. Whatever is wrong with it, it begins or ends as the right one, so
        only its neighbours in the alphabets are compared."""
        wanted = one_form(name).removesuffix(SUFFIX).casefold()
        if not wanted or len(wanted) > LONGEST_GUESS:
            return None
        near = dict(_around(self._alphabet, wanted))
        near |= {key[::-1]: found for key, found in _around(self._backwards, wanted[::-1])}
        closest = difflib.get_close_matches(wanted, near, n=1)
        return near[closest[0]] if closest else None


def _around(alphabet: list[tuple[str, str]], key: str) -> list[tuple[str, str]]:
    at = bisect.bisect(alphabet, (key,))
    return alphabet[max(0, at - NEIGHBOURS) : at + NEIGHBOURS]
