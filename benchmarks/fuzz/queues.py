"""Folders of the queue of trainings, damaged: what is whole is listed and goes on, what is not is named."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
from dataclasses import asdict
from pathlib import Path
from unittest import mock

from PIL import Image

from lib_persres.errors import LONGEST, PersresError
from lib_persres.residual_folder import ResidualFolder
from lib_persres.webui.json_file import read_json
from lib_persres.webui.tab.desk import Desk
from lib_persres.webui.tab.presets import Presets
from lib_persres.webui.training.jobs import Jobs
from lib_persres.webui.training.record import Record
from lib_persres.webui.training.request import Request

COUNT = 2000
NAMES = ("20250101-000000-aaaaaa", "20250101-000001-bbbbbb", "20250101-000002-cccccc")
STATES = ("queued", "running", "finished", "stopped", "failed", "interrupted")
ODD = (
    *(None, True, 0, -1, 1.5, 10**400, 1e308, float("nan"), float("inf")),
    *("", "x", "\ud800", "\0", "x" * 100_000, "../../x", "~nobody", "{identifier:>10000000000}"),
    *([], {}, [[]], [None], {"a": {"b": []}}, [10**400], ["\ud800"], [["kv", 10**400]], "queued", "running"),
)
"""Values that a field may have come to hold."""


def MAKE(chance: random.Random, folder: Path) -> Path:  # noqa: N802 a target's name
    root = folder / "queue"
    shutil.rmtree(root, ignore_errors=True)
    for name in NAMES:
        _training(root / name, chance)
    (root / "order.json").write_text(json.dumps(chance.sample(NAMES, len(NAMES))))
    (root / "presets.json").write_text(json.dumps({"fast": {"steps": "5"}, "slow": {"steps": "500"}}))
    for _ in range(chance.randint(1, 4)):
        chance.choice(DAMAGES)(root, chance)
    return root


def USE(root: Path) -> None:  # noqa: N802
    jobs = Jobs(root, ResidualFolder(lambda: root.parent / "persres"), lambda: None, lambda *_: None)
    try:
        # the disk is not what is tried, and waiting for it would take most of the time
        with contextlib.redirect_stdout(io.StringIO()), mock.patch("os.fsync"):
            _use(jobs, root)
    finally:
        jobs.close()


def _use(jobs: Jobs, root: Path) -> None:
    listed = _told(jobs)
    for status in listed:
        for act in (jobs.get, jobs.stop, jobs.resume, lambda i: jobs.move(i, 10**400), jobs.save_now, jobs.cancel):
            _refusing(act, status["id"])
    for job in list(jobs._jobs.values()):
        _refusing(lambda job=job: (job.folder.photos(job.record), job.folder.class_photos(job.record)))
    _told(jobs)
    _refusing(lambda: jobs.submit(Request("new", "dog", "paper"), [("a.png", _png())]))
    _refusing(lambda: Presets(root / "presets.json").all())
    _refusing(lambda: Presets(root / "presets.json").problem())
    for status in _told(jobs)[1:]:
        _refusing(jobs.remove, status["id"])
    whole = [status for status in _told(jobs) if status["request"]]
    if len(listed) == len(NAMES) and len(whole) < 1 and all(not status["request"] for status in listed):
        raise PersresError("None of the trainings can be read.")


def _told(jobs: Jobs) -> list[dict]:
    listed = jobs.list()
    json.dumps(listed, allow_nan=False, ensure_ascii=False).encode()
    for status in listed:
        if status["state"] == "failed" and not status["request"]:
            _one_sentence(status["message"].removesuffix(" It is left out: mend its folder, or remove it."))
    answer = json.loads(Desk(jobs, jobs.residuals, str).answer("{}"), parse_constant=_no_constant)
    if answer["error"] or len(answer["jobs"]) != len(listed):
        raise AssertionError(f"the page is told {answer['error']!r}")
    return listed


def _no_constant(text: str):
    raise AssertionError(f"the page is told {text}")


def _refusing(act, *given) -> None:
    try:
        act(*given)
    except PersresError as error:
        _one_sentence(str(error))


def _one_sentence(text: str) -> None:
    if not text or len(text) > LONGEST or "\n" in text:
        raise AssertionError(f"not one sentence: {text[:400]!r}")


# -- what is whole, and what becomes of it


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (33, 33), "red").save(buffer, "PNG")
    return buffer.getvalue()


def _training(path: Path, chance: random.Random) -> None:
    for kind in ("images", "previews"):
        (path / kind).mkdir(parents=True)
    (path / "images" / "0000").write_bytes(_png())
    for which in ("plain", "lag"):
        (path / "previews" / f"000010-{which}.png").write_bytes(_png())
    (path / "state.pt").write_bytes(b"PK")
    request = Request(f"rex {path.name[-6:]}", "dog", chance.choice(["", "paper", "toybox"]))
    record = Record(request.to_dict(), ["a.png"], state=chance.choice(STATES), done=10, total=150, curve=[0.5, 0.4])
    (path / "job.json").write_text(json.dumps(asdict(record)))


def _files(root: Path) -> list[Path]:
    found = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(path for path in found if path.stat().st_size < 1 << 20)


def _set_value(root, chance):
    """A field of a record or of its request."""
    path = root / chance.choice(NAMES) / "job.json"
    with contextlib.suppress(Exception):  # it was damaged before
        values = read_json(path)
        inner = chance.choice([values, values["request"]])
        inner[chance.choice(sorted(inner) + ["surplus"])] = chance.choice(ODD)
        path.write_text(json.dumps(values))


def _drop_value(root, chance):
    path = root / chance.choice(NAMES) / "job.json"
    with contextlib.suppress(Exception):
        values = read_json(path)
        inner = chance.choice([values, values["request"]])
        del inner[chance.choice(sorted(inner))]
        path.write_text(json.dumps(values))


def _flip(root, chance):
    path = chance.choice(_files(root))
    data = bytearray(path.read_bytes())
    for _ in range(chance.randint(1, 8)):
        if data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def _truncate(root, chance):
    path = chance.choice(_files(root))
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size + 1)])


def _remove(root, chance):
    chance.choice(_files(root)).unlink()


def _replace(root, chance):
    """A whole file by JSON of another kind, by bytes, or by nothing but depth."""
    path = chance.choice(_files(root))
    text = chance.choice([json.dumps(chance.choice(ODD)), "[" * 50_000, '{"a":' * 50_000, "NaN", "\0" * 1000])
    with contextlib.suppress(OSError):
        path.write_bytes(chance.choice([text.encode(), bytes(chance.randrange(256) for _ in range(64))]))


def _become_folder(root, chance):
    path = chance.choice(_files(root))
    path.unlink()
    path.mkdir()


def _become_link(root, chance):
    path = chance.choice(_files(root))
    path.unlink()
    path.symlink_to(chance.choice([path, root, root / "never", "/dev/zero", path.parent]))


def _become_pipe(root, chance):
    path = chance.choice(_files(root))
    path.unlink()
    os.mkfifo(path)


def _huge(root, chance):
    path = chance.choice(_files(root))
    with open(path, "r+b") as file:
        file.truncate(chance.choice([5 << 20, 1 << 34]))  # holes, which take no place


def _odd_entry(root, chance):
    """A file, a link or a folder that no queue makes."""
    name = chance.choice(["x", "é", "a\nb", ".new-1", ".gone-1", "-", "x" * 200, os.fsdecode(b"\xff\xfe")])
    path = chance.choice([root, root / NAMES[0], root / NAMES[0] / "previews"]) / name
    with contextlib.suppress(OSError):
        chance.choice([path.mkdir, path.touch, lambda: path.symlink_to(root), lambda: path.symlink_to(path)])()


def _odd_preview(root, chance):
    folder = root / chance.choice(NAMES) / "previews"
    with contextlib.suppress(OSError):
        step = chance.choice(["²", "-1", "9" * 200, "", "1e3", "000011", "٣"])
        for which in ("plain", "lag"):
            (folder / f"{step}-{which}.png").write_bytes(b"")


DAMAGES = (
    *(_set_value, _set_value, _set_value, _drop_value, _flip, _flip, _truncate, _remove, _replace, _replace),
    *(_become_folder, _become_link, _become_pipe, _huge, _odd_entry, _odd_preview),
)
