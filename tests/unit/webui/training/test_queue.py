"""The queue of trainings: its order, and what another process finds of it."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from training_bench import Bench, direct, same, saved

from lib_persres.errors import PersresError
from lib_persres.residual import Residual
from lib_persres.webui.training import store


def test_a_failed_training_does_not_stop_the_rest(bench):
    b = bench(gated=True)
    first = b.submit("one")
    b.jobs.check = lambda request: None  # as where another model is loaded than when its turn comes
    second = b.submit("two", resolution=24)
    third = b.submit("three")
    b.fail_at = 2
    b.gate.release()
    status = b.wait(first)
    b.fail_at = None
    for _ in range(40):
        b.gate.release()
    assert status["state"] == "failed" and status["message"] == (
        "The training broke off: RuntimeError: broken by the test."
    )
    assert "resolution 24 does not fit" in b.wait(second)["message"]
    assert b.wait(third)["state"] == "finished"
    b.jobs.resume(first)
    assert b.wait(first, "finished")["done"] == 8


def test_a_training_is_done_where_the_model_is_worked_with_and_what_goes_wrong_there_is_told(bench):
    b = bench()
    threads = []

    def elsewhere(do):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(lambda: (threads.append(threading.current_thread()), do())[1]).result()

    b.jobs._on_thread = elsewhere
    assert b.wait(b.submit("one"))["state"] == "finished"
    b.fail_at = 2
    assert "broken by the test" in b.wait(b.submit("two"))["message"]
    assert len(set(threads)) == 2 and not any(thread.name == "persres training" for thread in threads)


def test_the_queue_is_in_the_order_that_was_asked_for_and_a_new_process_keeps_it(bench, sd, tmp_path):
    b = bench(gated=True)
    running = b.submit("running")
    b.wait_done(running, 1)
    names = [b.submit(name) for name in ("one", "two", "three")]
    b.jobs.move(names[2], -5)
    b.jobs.move(names[0], 1)
    wanted = ["three", "two", "one"]
    listed = [status["concept"] for status in b.jobs.list()]
    assert listed == ["running", *wanted]
    with pytest.raises(PersresError, match="only those that wait"):
        b.jobs.move(running, 1)
    other = b.again()
    found = [record.request["concept"] for _, record in store.read_all(other.jobs.root)]
    assert found == listed
    b.jobs.cancel(names[1])
    b.jobs.remove(names[1])
    for _ in range(100):
        b.gate.release()
    b.wait(names[0], "finished")
    files = {name: tmp_path / "persres" / f"{name}.safetensors" for name in wanted[::2]}
    created = {name: Residual.read_metadata(path).created for name, path in files.items()}
    assert created["three"] <= created["one"] and not (tmp_path / "persres" / "two.safetensors").exists()


def test_a_new_process_offers_what_was_running_and_resumes_it_to_the_same_result(bench, sd, tmp_path):
    b = bench(gated=True)
    identity = b.submit()
    b.gate.release(), b.gate.release(), b.gate.release()
    b.wait_done(identity, 4)
    # as after a kill: another process reads what lies on the disk at this moment
    after = tmp_path / "after"
    shutil.copytree(tmp_path / "jobs", after / "jobs")
    other = Bench(sd, after)
    other.jobs.start()
    status = other.jobs.get(identity)
    assert status["state"] == "interrupted" and "can be resumed" in status["message"] and status["loss"]
    other.jobs.resume(identity)
    status = other.wait(identity, "finished")
    other.jobs.close()
    assert same(Residual.load(status["file"]), saved(direct(sd, tmp_path / "by hand"), tmp_path))


def test_a_reload_of_the_page_interrupts_and_the_next_queue_goes_on_by_itself(bench):
    b = bench(gated=True, every=100)
    identity = b.submit()
    b.gate.release(), b.gate.release()
    b.wait_done(identity, 3)
    threading.Timer(0.2, b.gate.release).start()
    b.jobs.close()
    status = b.jobs.get(identity)
    assert status["state"] == "queued"
    assert status["message"] == "The page was reloaded at step 3 of 8; it goes on by itself."
    other = bench()
    assert other.wait(identity, "finished")["done"] == 8


def test_another_checkpoint_is_refused_by_its_name_and_the_work_stays(bench, sd, monkeypatch):
    b = bench(gated=True)
    identity = b.stop_after_two()
    hash_ = sd.hash
    monkeypatch.setitem(vars(sd), "hash", "0" * 64)
    b.jobs.resume(identity)
    status = b.wait(identity)
    assert status["state"] == "failed"
    assert "begun on the checkpoint tiny.safetensors: load that one" in status["message"]
    monkeypatch.setitem(vars(sd), "hash", hash_)
    b.jobs.resume(identity)
    assert b.wait(identity)["state"] == "finished"


def test_what_is_resumed_goes_before_all_that_have_not_begun(bench):
    b = bench(gated=True)
    first = b.submit("first")
    b.wait_done(first, 1)
    b.jobs.stop(first)
    second, third = b.submit("second"), b.submit("third")
    b.gate.release()
    assert b.wait(first)["state"] == "stopped"
    b.wait_done(second, 1)
    b.jobs.resume(first)
    assert [status["concept"] for status in b.jobs.list()] == ["first", "second", "third"]
    for _ in range(8):
        b.gate.release()
    b.wait(second, "finished")
    b.wait_done(first, 2)  # and waits at the gate
    assert b.jobs.get(third)["state"] == "queued"
    found = [record.request["concept"] for _, record in store.read_all(b.jobs.root)]
    assert found == ["first", "second", "third"]


def test_a_file_that_was_written_just_before_a_kill_is_known_as_its_own(bench, tmp_path):
    b = bench(gated=True)
    identity = b.submit()
    b.wait_done(identity, 1)
    b.jobs.save_now(identity)
    b.gate.release()
    b.wait_done(identity, 2)
    after = tmp_path / "after"
    shutil.copytree(tmp_path / "jobs", after / "jobs")
    shutil.copytree(tmp_path / "persres", after / "persres")
    record = after / "jobs" / identity / "job.json"
    # the kill came between the file and the record
    record.write_text(json.dumps({**json.loads(record.read_text()), "file": None, "stamp": None, "name": None}))
    other = Bench(b.sd, after)
    other.jobs.start()
    other.jobs.resume(identity)
    status = other.wait(identity, "finished")
    other.jobs.close()
    assert status["file"] == str(after / "persres" / "rex.safetensors") and status["message"] == ""
    assert [path.name for path in (after / "persres").iterdir()] == ["rex.safetensors"]
