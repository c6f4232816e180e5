"""Which residual a prompt's tag means: a file's stem in a folder and its subfolders, or a path."""

from __future__ import annotations

from pathlib import Path

from ..errors import PersresError
from ..residual import Residual, file_hash

SUFFIX = ".safetensors"
LISTED = 10


class ResidualFolder:
    """name -> residual; each file is read once. Call it, or ask for the file alone with `path`."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._loaded: dict[Path, Residual] = {}

    def __call__(self, name: str) -> Residual:
        path = self.path(name)
        if path not in self._loaded:
            self._loaded[path] = Residual.load(path)
        return self._loaded[path]

    def short_hash(self, name: str) -> str:
        return file_hash(self.path(name))[:10]

    def path(self, name: str) -> Path:
        """The file, or PersresError: what is there instead, or which files share the name."""
        if "/" in name or "\\" in name or name.endswith(SUFFIX):
            return self._named(name)
        if self.folder.is_file():
            raise PersresError(f"{self.folder} is a file: give the folder that it is in.")
        files = sorted(path for path in self.folder.rglob(f"*{SUFFIX}") if path.is_file())
        found = [path for path in files if path.stem == name]
        if len(found) > 1:
            more = f" and {len(found) - 2} more" if len(found) > 2 else ""
            raise PersresError(
                f'"{name}" is both {found[0]} and {found[1]}{more}: rename one, or write its path in the tag.'
            )
        if not found:
            raise PersresError(f'There is no residual "{name}" in {self.folder}: {self._contents(files)}.')
        return found[0]

    def _named(self, name: str) -> Path:
        name = name if name.endswith(SUFFIX) else name + SUFFIX
        for path in (Path(name), self.folder / name):
            if path.is_file():
                return path
        raise PersresError(f"There is no residual {name}, neither here nor in {self.folder}.")

    def _contents(self, files: list[Path]) -> str:
        if not self.folder.is_dir():
            return "the folder does not exist, train a concept first or name another with --residuals"
        names = sorted({path.stem for path in files})
        if not names:
            return "the folder holds none, train a concept first or name another with --residuals"
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        return f"it holds {', '.join(names[:LISTED])}{more}"
