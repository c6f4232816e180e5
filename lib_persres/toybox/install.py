"""Puts the Toybox's checkpoint into a WebUI's folder of checkpoints, and takes out what was put there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from ..errors import PersresError
from ..residual import file_hash
from . import CHECKPOINT

CHECKPOINTS = Path("models") / "Stable-diffusion"
ENCODER = "toybox_text_encoder"
RECORD = f"{ENCODER}/installed.json"
"""Says which files are ours: name -> the sha256 of each content that this program gave it."""
NAMES = ("toybox.safetensors", "toybox.yaml", *(f"{ENCODER}/{n}" for n in ("config.json", "vocab.json", "merges.txt")))
PARTIAL = ".persres-partial"


def checkpoints_of(webui, data=None) -> Path:
    """The folder of checkpoints of the WebUI in `webui`, whose --data-dir is `data` if it has one."""
    webui = Path(os.path.abspath(webui))
    for part in ("webui.py", "modules/processing.py"):
        if not (webui / part).is_file():
            raise PersresError(f"{webui} is no WebUI: it has no {part}. Give the folder that webui.py is in.")
    if data is None:
        return webui / CHECKPOINTS
    data = Path(os.path.abspath(data))
    if not data.is_dir():
        raise PersresError(f"There is no folder {data}: give the one that the WebUI is started with as --data-dir.")
    return data / CHECKPOINTS


def install(folder: Path, checkpoint: Path = CHECKPOINT) -> bool:
    """Put the checkpoint into `folder`; False where it was there already. Nothing is left of a failed install.

    Raises PersresError where a file of one of the names is not of this program's making.
    """
    record = _read_record(folder)
    with tempfile.TemporaryDirectory() as made:
        sources = _sources(folder, checkpoint, Path(made))
        hashes = {name: _hash(source) for name, source in sources.items()}
        there = {name: _hash(folder / name) for name in NAMES if _is_there(folder / name)}
        for name, found in there.items():
            if found not in record.get(name, ()):
                raise PersresError(
                    f"{folder / name} is there already and is not what this command put there: "
                    "rename or remove it, then install again."
                )
        _remove_partials(folder)
        if there == hashes:
            return False
        (folder / ENCODER).mkdir(parents=True, exist_ok=True)
        try:
            # first, so that whatever a killed process leaves is known to be ours
            _write_record(folder, {name: [*record.get(name, ()), hashes[name]] for name in NAMES})
            for name, source in sources.items():
                if there.get(name) != hashes[name]:
                    _put(source, folder / name)
            _write_record(folder, {name: [hashes[name]] for name in NAMES})
        except BaseException:
            with contextlib.suppress(OSError, PersresError):  # the first error is the one to tell
                _remove_partials(folder)
                if not there:
                    uninstall(folder)
            with contextlib.suppress(OSError):
                (folder / ENCODER).rmdir()
            raise
    return True


def uninstall(folder: Path) -> list[Path]:
    """Take out what install put into `folder`; the files that stay, since they were changed after it."""
    record = _read_record(folder)
    if not record:
        raise PersresError(f"The Toybox is not installed in {folder}: there is nothing to take out.")
    changed = []
    _remove_partials(folder)
    for name in NAMES:
        path = folder / name
        if _is_there(path):
            if _hash(path) in record.get(name, ()):
                path.unlink()
            else:
                changed.append(path)
    (folder / RECORD).unlink()
    with contextlib.suppress(OSError):  # something else is in it
        (folder / ENCODER).rmdir()
    return changed


def _sources(folder: Path, checkpoint: Path, made: Path) -> dict[str, Path]:
    """Where the content of each file comes from; what has to be made is made in the folder `made`."""
    import yaml

    from ..standalone.tokenizer import Tokenizer

    if not checkpoint.is_file():
        raise PersresError(
            f"The Toybox checkpoint {checkpoint} is missing: make it with `python -m lib_persres toybox train`."
        )
    sidecar = yaml.safe_load(checkpoint.with_suffix(".yaml").read_text(encoding="utf-8"))
    text = sidecar["model"]["params"]["cond_stage_config"]["params"]
    encoder = checkpoint.parent / text["version"]
    # the WebUI looks for a relative path from its own folder, and then in the network
    text["version"] = str(folder / ENCODER)
    (made / "yaml").write_text(yaml.safe_dump(sidecar, sort_keys=False), encoding="utf-8")
    Tokenizer.find(encoder).write_vocabulary(made)
    sources = (checkpoint, made / "yaml", encoder / "config.json", made / "vocab.json", made / "merges.txt")
    return dict(zip(NAMES, sources))


def _put(source: Path, path: Path) -> None:
    partial = path.with_name(path.name + PARTIAL)
    shutil.copyfile(source, partial)
    os.replace(partial, path)


def _remove_partials(folder: Path) -> None:
    for name in (*NAMES, RECORD):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            (folder / (name + PARTIAL)).unlink()


def _is_there(path: Path) -> bool:
    return os.path.lexists(path)


def _hash(path: Path) -> str:
    """The file's sha256; empty for what is no file of its own."""
    if path.is_symlink() or not path.is_file():
        return ""
    return file_hash(path)


def _read_record(folder: Path) -> dict[str, list[str]]:
    path = folder / RECORD
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if set(record) <= set(NAMES) and all(isinstance(hashes, list) and all(hashes) for hashes in record.values()):
            return record
    except (ValueError, TypeError):
        pass
    raise PersresError(f"{path} is damaged: remove it, {folder / ENCODER} and the toybox files beside it by hand.")


def _write_record(folder: Path, record: dict[str, list[str]]) -> None:
    partial = folder / (RECORD + PARTIAL)
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, folder / RECORD)
