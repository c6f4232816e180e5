"""A queue's folder that somebody or something damaged, a disk that is full, a second process: one bad thing is named,
the rest goes on, and memory and disk agree."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from training_bench import IMAGES, Bench
from waiting import until

from lib_persres import writing
from lib_persres.errors import PersresError
from lib_persres.residual import Residual
from lib_persres.webui.tab.desk import Desk
from lib_persres.webui.tab.presets import Presets
from lib_persres.webui.training.folder_lock import FolderLock
from lib_persres.webui.training.jobs import Jobs
from lib_persres.webui.training.request import Request

DEEP = "[" * 100_000


@pytest.fixture
def queue(sd, tmp_path):
    """Jobs with two queued trainings, "first" and "second", whose worker was never begun; `again` reads the folder."""

    class Queue:
        def __init__(self):
            self.root, self.made = tmp_path / "jobs", []
            self.bench = Bench(sd, tmp_path)
            self.jobs = self.bench.jobs
            self.ids = [self.bench.submit(name) for name in ("first", "second")]

        def again(self) -> Jobs:
            self.jobs.close()
            self.jobs = Bench(sd, tmp_path).jobs
            return self.jobs

        def record(self, number=0) -> Path:
            return self.root / self.ids[number] / "job.json"

        def change(self, number=0, **values):
            path = self.record(number)
            path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    queue = Queue()
    yield queue
    queue.jobs.close()


def told(jobs) -> list[dict]:
    """What the API and the page are told, as JSON that any reader takes."""
    listed = jobs.list()
    assert json.loads(json.dumps(listed, allow_nan=False, ensure_ascii=False).encode()) == listed
    answer = json.loads(Desk(jobs, jobs.residuals, str).answer("{}"), parse_constant=pytest.fail)
    assert answer["error"] == "" and [job["id"] for job in answer["jobs"]] == [job["id"] for job in listed]
    return listed


# -- damage


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "it is no JSON"),
        ("{", "it is no JSON"),
        (DEEP, "it is nested too deeply"),
        ("[]", "it is no object"),
        ("{}", "it lacks request and images"),
        ("\0" * 5_000_000, "it has 5,000,000 bytes"),
        (None, "there is no job.json"),
    ],
)
def test_a_record_that_cannot_be_read_is_named_and_the_others_go_on(queue, text, words):
    queue.record().unlink()
    if text is not None:
        queue.record().write_text(text)
    bad, good = told(queue.again())
    assert bad["id"] == queue.ids[0] and bad["state"] == "failed" and words in bad["message"]
    assert (good["concept"], good["state"]) == ("second", "queued")
    for act in ("stop", "cancel", "resume", "save_now"):
        with pytest.raises(PersresError, match="cannot be read"):
            getattr(queue.jobs, act)(bad["id"])
    queue.jobs.remove(bad["id"])
    assert [status["concept"] for status in told(queue.jobs)] == ["second"] and not queue.record().parent.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "lost"},
        {"state": ["queued"]},
        {"images": "ab"},
        {"images": [1]},
        {"request": []},
        {"request": {"concept": "a", "macro_class": "b", "preview_prompt": "\ud800"}},
        {"request": {"concept": "a", "macro_class": "b", "steps": 10**400}},
        {"request": {"concept": "a", "macro_class": "b", "recipe": ["paper"]}},
    ],
)
def test_without_what_it_needs_a_training_is_left_out(queue, changes):
    queue.change(**changes)
    bad, good = told(queue.again())
    assert bad["state"] == "failed" and "cannot be read" in bad["message"] and good["concept"] == "second"


@pytest.mark.parametrize(
    "name, value",
    [
        ("curve", [float("nan")]),
        ("curve", [1, "2"]),
        ("curve", [10**400]),
        ("done", -1),
        ("done", 10**400),
        ("total", True),
        ("stages", [["kv", "many"]]),
        ("stages", [1]),
        ("message", {"a": 1}),
        ("message", "x" * 100_000),
        ("stamp", [1]),
        ("file", 5),
        ("base_hash", []),
    ],
)
def test_a_damaged_value_that_is_not_needed_is_left_out_and_said(queue, name, value):
    queue.change(**{name: value})
    first, _ = told(queue.again())
    assert first["state"] == "queued" and f"Its record was damaged: {name} left out." in first["message"]
    assert first["request"]["steps"] == 8


def test_texts_that_utf8_does_not_have_are_told_in_others(queue):
    queue.change(message="\ud800 odd", file="/\udcff.safetensors", name="\udcff")
    first, _ = told(queue.again())
    assert first["message"] == "� odd" and first["file"] == "/?.safetensors"


@pytest.mark.parametrize("text", ["", "{}", "5", '["nothing", 5, null, "\\ud800"]', DEEP, "\udcff"])
def test_without_its_order_a_queue_is_in_the_order_of_its_making(queue, text):
    path = queue.root / "order.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert [status["id"] for status in told(queue.again())] == sorted(queue.ids)


def test_pipes_links_and_odd_names_are_passed_over_or_named_and_nothing_they_lead_to_is_touched(queue, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("")
    (queue.root / "loop").symlink_to(queue.root, target_is_directory=True)
    (queue.root / ".gone-1").symlink_to(elsewhere, target_is_directory=True)
    (queue.root / "gone").symlink_to(tmp_path / "never")
    os.mkfifo(queue.root / "pipe")
    (queue.root / "fifo").mkdir()
    os.mkfifo(queue.root / "fifo" / "job.json")
    (queue.root / "order.json").unlink()
    os.mkfifo(queue.root / "order.json")
    os.mkdir(os.fsencode(queue.root) + b"/\xff")
    listed = told(queue.again())
    named = [status["id"] for status in listed if status["state"] == "failed"]
    assert sorted(named) == ["?", "fifo", "loop"] and len(listed) == 5
    for name in named:
        queue.jobs.remove(name)
    assert [status["id"] for status in told(queue.jobs)] == sorted(queue.ids)
    assert (elsewhere / "kept").exists() and not (queue.root / ".gone-1").is_symlink()


def test_odd_files_among_the_previews_are_none(queue):
    folder = queue.record().parent / "previews"
    folder.mkdir()
    for name in ("000002-plain.png", "000002-lag.png", "²-plain.png", "²-lag.png", "x-plain.png", "000004-plain.png"):
        (folder / name).write_bytes(b"")
    (folder / "000006-plain.png").mkdir()
    (folder / "000006-lag.png").write_bytes(b"")
    first, _ = told(queue.again())
    assert [preview["step"] for preview in first["preview"]] == [2]
    for path in folder.iterdir():
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    folder.write_text("a file where the folder should be")
    assert told(queue.again())[0]["preview"] == []


@pytest.mark.parametrize(
    "question",
    [
        "",
        "null",
        "[]",
        DEEP,
        '{"do": ["stop"]}',
        '{"do": "stop", "id": ["a"]}',
        '{"do": "move", "id": 5, "places": 1}',
        '{"do": "__init__", "id": "a"}',
        '{"do": "stop", "id": "\\ud800"}',
    ],
)
def test_odd_questions_of_a_page_get_one_sentence_and_the_list(queue, question):
    answer = json.loads(Desk(queue.jobs, queue.jobs.residuals, str).answer(question))
    assert len(answer["jobs"]) == 2 and "\n" not in answer["error"] and len(answer["error"]) <= 300
    assert "failed" not in answer["error"]  # which stands for a traceback


def test_a_training_is_moved_by_any_number_of_places(queue):
    queue.jobs.move(queue.ids[0], 10**400)
    assert [status["id"] for status in queue.jobs.list()] == queue.ids[::-1]
    queue.jobs.move(queue.ids[0], -(10**400))
    assert [status["id"] for status in queue.again().list()] == queue.ids


def test_a_state_that_is_damaged_is_refused_by_name_and_the_next_training_runs(bench):
    b = bench(gated=True)
    identity = b.stop_after_two()
    (b.jobs.root / identity / "state.pt").write_bytes(b"PK nonsense")
    b.jobs.resume(identity)
    status = b.wait(identity)
    assert status["state"] == "failed" and "state.pt cannot be continued" in status["message"]
    assert b.wait(b.submit("next"))["state"] == "finished"


# -- presets


def test_a_bad_preset_is_left_out_and_named_and_kept_in_the_file(tmp_path):
    path = tmp_path / "presets.json"
    good = {"steps": "5", "recipe": "paper"}
    bad = {"\ud800": good, "a/b": good, "deep": {"steps": [[1]]}, "text": "no settings", "odd": {"template": "\ud800"}}
    path.write_text(json.dumps({"good": good, **bad}))
    presets = Presets(path)
    assert presets.all() == {"good": good}
    assert "and 4 more" in presets.problem() and "is left out (its name is no preset's)" in presets.problem()
    presets.save("new", good)
    assert set(json.loads(path.read_text())) == {"good", "new", *bad}
    with pytest.raises(PersresError, match="cannot be kept: its steps is no value of an input"):
        presets.save("odd one", {"steps": ["5"]})


@pytest.mark.parametrize("text", ["", "[]", DEEP, "\udcff"])
def test_a_file_of_presets_that_is_damaged_is_named(tmp_path, text):
    path = tmp_path / "presets.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(PersresError, match="presets.json cannot be read .*: mend or delete the file"):
        Presets(path).all()


# -- a full disk


@pytest.fixture
def full(monkeypatch):
    """Calls that fill the disk and make room again."""
    own = os.fsync

    def refuse(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    class Disk:
        def fill(self):
            monkeypatch.setattr(writing.os, "fsync", refuse)

        def make_room(self):
            monkeypatch.setattr(writing.os, "fsync", own)

    return Disk()


@pytest.mark.parametrize("act", ["stop", "cancel", "resume", "move"])
def test_what_the_disk_does_not_take_is_refused_and_changes_nothing(queue, full, act):
    if act == "resume":
        queue.jobs.stop(queue.ids[0])
    before = [(status["id"], status["state"]) for status in queue.jobs.list()]
    full.fill()
    with pytest.raises(PersresError, match="No space left on device"):
        getattr(queue.jobs, act)(queue.ids[0], *([1] if act == "move" else []))
    assert [(status["id"], status["state"]) for status in queue.jobs.list()] == before
    full.make_room()
    assert [(status["id"], status["state"]) for status in queue.again().list()] == before
    assert not list(queue.root.rglob("*.partial"))


def test_what_happened_while_the_disk_was_full_is_told_and_written_once_there_is_room(queue, full):
    job = queue.jobs._jobs[queue.ids[0]]
    full.fill()
    job.put(state="failed", message="It broke off.")
    assert queue.jobs.get(job.id)["message"] == (
        "It broke off. This is not on the disk yet (No space left on device): make room."
    )
    assert json.loads(queue.record().read_text())["state"] == "queued"
    full.make_room()
    queue.jobs.start()
    until(lambda: not job.unwritten)
    assert queue.jobs.get(job.id)["message"] == "It broke off."
    assert json.loads(queue.record().read_text())["state"] == "failed"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, full):
    path = tmp_path / "notes.json"
    writing.write_whole(path, b"old")
    full.fill()
    with pytest.raises(OSError):
        writing.write_whole(path, b"new" * 10_000)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_finished_training_keeps_no_state(bench):
    b = bench()
    status = b.wait(b.submit(), "finished")
    b.wait(b.submit("another"), "finished")
    folder = b.jobs.root / status["id"]
    assert sorted(path.name for path in folder.iterdir()) == ["images", "job.json"] and Residual.load(status["file"])
    (folder / "state.pt").write_bytes(b"left by a kill")
    b.jobs.close()
    bench()
    assert not (folder / "state.pt").exists()


# -- a second process

HOLD = """
import sys
from lib_persres.webui.training.folder_lock import FolderLock
from pathlib import Path
lock = FolderLock(Path(sys.argv[1]))
print(lock.take(), flush=True)
sys.stdin.read()
"""


def test_a_second_process_looks_says_whose_the_queue_is_and_does_not_train(queue):
    root = queue.root
    queue.jobs.close()
    command = [sys.executable, "-c", HOLD, str(root)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])}
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline().strip() == "None"
        (root / ".new-1").mkdir()  # which the first one is making
        jobs = queue.again()
        jobs.start()
        listed = told(jobs)
        assert [status["state"] for status in listed] == ["queued", "queued"] and (root / ".new-1").is_dir()
        assert all(f"belongs to another process (number {first.pid})" in status["message"] for status in listed)
        for act in (
            lambda: jobs.stop(queue.ids[0]),
            lambda: jobs.remove(queue.ids[0]),
            lambda: jobs.submit(Request("third", "dog", "paper"), IMAGES),
        ):
            with pytest.raises(PersresError, match=f"belongs to another process .number {first.pid}"):
                act()
        first.stdin.close()
    # it ended, however it did: the folder is free
    assert [status["message"] for status in told(jobs)] == ["", ""] and not (root / ".new-1").exists()


def test_a_folder_without_locks_is_used_without_one(tmp_path, monkeypatch):
    import fcntl

    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    lock = FolderLock(tmp_path / "new")
    assert lock.take() is None and lock.held
    lock.free()
    assert not lock.held
