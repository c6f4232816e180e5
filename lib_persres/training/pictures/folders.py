"""What a folder holds: the images, and all else by kind, so that nothing is passed over in silence."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import PersresError
from ...regular_files import open_regular
from . import kinds
from .decode import can_read
from .files import reason

MOST_SEEN = 20_000
"""Entries that the search for photos in subfolders looks at."""
DEPTH = 3
SHOWN = 5
HOW = {
    kinds.HEIC_PICTURE: "install pillow-heif, or save it as JPEG",
    kinds.AVIF_PICTURE: "install pillow-avif-plugin, or save it as JPEG",
}


PASSED = {"HEIF": kinds.HEIC_PICTURE, "AVIF": kinds.AVIF_PICTURE}
"""Formats that may lack what reads them -> what such files are counted as then."""
NAMED = {**dict.fromkeys(kinds.HEIC, "HEIF"), ".avif": "AVIF"}


@dataclass
class Listing:
    """images: by name. passed: how many of each kind are not read. subfolders: those with images, and how many."""

    folder: Path
    images: list[Path] = field(default_factory=list)
    passed: Counter[kinds.Kind] = field(default_factory=Counter)
    subfolders: list[tuple[str, int]] = field(default_factory=list)

    def notes(self) -> list[str]:
        """Sentences on what is not read."""
        counts = dict(self.passed)
        captions = counts.pop(kinds.CAPTION, 0)
        found = []
        if counts:
            found.append(f"Passed over in {self.folder.name}: {self._counted(counts)}.")
        if captions:
            one = captions == 1
            found.append(
                f"The {'caption file' if one else f'{captions} caption files'} beside the photos "
                f"{'is' if one else 'are'} ignored: each photo is learned with the recipe's template."
            )
        if self.images and self.subfolders:
            found.append(f"Subfolders are not read: {self._offered()}.")
        return [str(PersresError(text)) for text in found]  # names of files are in it

    def refusal(self) -> PersresError:
        """Of a folder without images."""
        if self.subfolders:
            return PersresError(
                f"The folder {self.folder} contains no images itself, but subfolders do: {self._offered()}; "
                "name one of them."
            )
        passed = f" ({self._counted(self.passed)})" if self.passed else ""
        return PersresError(
            f"The folder {self.folder} contains no images{passed}; put photos of the concept there (PNG, JPEG, WebP)."
        )

    def _offered(self) -> str:
        shown = ", ".join(f'"{name}" ({count})' for name, count in self.subfolders[:SHOWN])
        more = len(self.subfolders) - SHOWN
        return shown + (f" and {more} more" if more > 0 else "")

    @staticmethod
    def _counted(counts: Mapping[kinds.Kind, int]) -> str:
        texts = [
            f"{count} {kind[count != 1]}" + (f" ({HOW[kind]})" if kind in HOW else "")
            for kind, count in sorted(counts.items(), key=lambda item: (item[0] == kinds.OTHER, -item[1], item[0]))
        ]
        return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def listing(folder: Path, subfolders: bool = True) -> Listing:
    """Raises OSError where the folder cannot be read. subfolders: look for photos in them, too."""
    found = Listing(folder)
    others: list[tuple[str, kinds.Kind]] = []
    stems: set[str] = set()
    with os.scandir(folder) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    for entry in entries:
        kind = _kind(entry)
        if kind == "image":
            found.images.append(Path(entry.path))
            stems.add(Path(entry.name).stem)
        elif isinstance(kind, tuple):
            others.append((entry.name, kind))
    for name, kind in others:
        path = Path(name)
        # "a.txt" and "a.jpg.txt" both occur
        is_caption = path.suffix.lower() in (".txt", ".caption") and {path.stem, Path(path.stem).stem} & stems
        found.passed[kinds.CAPTION if is_caption else kind] += 1
    if subfolders:
        found.subfolders = _with_photos(folder)
    return found


def _kind(entry: os.DirEntry[str]) -> str | kinds.Kind | None:
    """The word image, the word folder, a kind of `kinds`, or None for what is not worth a word."""
    try:
        mode = entry.stat().st_mode
    except OSError:
        mode = None
    if entry.name.startswith("."):  # macOS leaves "._photo.jpg" about
        return None
    if mode is None:
        return kinds.LINK
    if stat.S_ISDIR(mode):
        return "folder"
    if not stat.S_ISREG(mode):
        return kinds.NO_FILE
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix not in kinds.SUFFIXES:
        return kinds.kind_of_name(entry.name)
    start = _start(entry.path)
    # phones' and Windows' files come under another format's name
    format_ = kinds.of_bytes(start) or (NAMED.get(suffix))
    if format_ in PASSED and not can_read(format_, start[:16]):
        return PASSED[format_]
    return "image"


def _start(path: str) -> bytes:
    """A file's first bytes; none where it cannot be read, which is said when it is to be."""
    try:
        with open_regular(path) as file:
            return file.read(kinds.START) or b""
    except OSError:
        return b""


def _with_photos(folder: Path) -> list[tuple[str, int]]:
    """(path within the folder, number of photos) of the subfolders that hold some; links are not followed."""
    found, waiting, seen = [], [("", 0)], 0
    while waiting:
        inside, depth = waiting.pop(0)
        count = 0
        try:
            with os.scandir(folder / inside) as entries:
                for entry in entries:
                    seen += 1
                    if seen > MOST_SEEN:
                        break
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        if depth < DEPTH:
                            waiting.append((os.path.join(inside, entry.name), depth + 1))
                    else:
                        count += os.path.splitext(entry.name)[1].lower() in kinds.SUFFIXES
        except OSError:
            continue
        if inside and count:
            found.append((inside, count))
        if seen > MOST_SEEN:
            break
    return sorted(found)


def read_folder(path: str | os.PathLike[str], subfolders: bool = True) -> Listing:
    """A folder with images. PersresError where there are none, or it cannot be read."""
    folder = Path(path)
    try:
        found = listing(folder, subfolders)
    except (OSError, ValueError) as error:
        raise PersresError(f"The folder {folder} cannot be read ({reason(error)}); name another.") from error
    if not found.images:
        raise found.refusal()
    return found
