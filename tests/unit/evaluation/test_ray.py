"""A Ray cluster of two nodes of which one is killed in mid-run: nothing is lost, nothing is done twice."""

import os
import threading
import time
from pathlib import Path

import pytest

ray = pytest.importorskip("ray", reason="Ray is an optional extra")

from evaluation_bench import Evaluation, drawn, events, tiny_suite  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from lib_persres.evaluation import piece as pieces  # noqa: E402
from lib_persres.evaluation.ray_workers import run_ray  # noqa: E402
from lib_persres.evaluation.run_folder import Log  # noqa: E402

STEPS = 300
HELD_AT = 150
TRAININGS = ("one", "two", "three")
LONGEST = 900
"""Seconds to wait for two nodes at work; then the test fails instead of waiting on."""
GO = "killed"
"""The file in the run's folder for which every training waits: the kill falls into two of them, however fast or slow
the machine is."""


class Held(pieces.Piece):
    """A piece whose training does not go past its middle before the kill."""

    def do(self, sd, progress=None):
        real, go = pieces.Trainer.step, self.root / GO

        def step(trainer):
            while trainer.done >= HELD_AT and not go.exists():
                time.sleep(0.02)
            return real(trainer)

        pieces.Trainer.step = step
        try:
            super().do(sd, progress)
        finally:
            pieces.Trainer.step = real


def several() -> dict:
    """Four pieces: the base model's and three trainings."""
    raw = tiny_suite(steps=STEPS, images=1)
    changes = raw["methods"][1]["training"]["changes"]
    raw["methods"][1:] = [
        {"name": name, "training": {"name": name, "recipe": "paper", "changes": changes, "seed": seed}}
        for seed, name in enumerate(TRAININGS)
    ]
    raw["orderings"] = []
    return raw


def training(log: Path) -> int | None:
    """The process that has kept a state of its training and is still at it."""
    kept = Log(log).events("kept")
    return kept[-1]["pid"] if kept and not Log(log).events("trained") else None


def alive(pid: int) -> bool:
    """A dead process that nobody has waited for is dead, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_node_loses_nothing_and_nothing_is_done_twice(tmp_path, monkeypatch):
    evaluation = Evaluation(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(__import__("sys").path))
    monkeypatch.setenv("RAY_DISABLE_IMPORT_WARNING", "1")
    small = {"object_store_memory": 80_000_000, "num_cpus": 1}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    over = threading.Event()
    try:
        second = cluster.add_node(wait=False, **small)
        cluster.wait_for_nodes(timeout=300)  # Ray's own 30 s are too few on a busy machine
        ray.init(address=cluster.address, log_to_driver=False)
        assert ray.cluster_resources()["CPU"] == 2
        killed = {}

        def kill():
            """The second node, as soon as two trainings have kept a state: one of them is its."""
            end = time.monotonic() + LONGEST
            while len(killed) < 2 and time.monotonic() < end and not over.wait(0.02):
                logs = (tmp_path / "run" / "pieces" / "rex").glob("*/log.jsonl")
                killed.update((log.parent.name, pid) for log in logs if (pid := training(log)))
            try:
                if len(killed) == 2:
                    cluster.remove_node(second, allow_graceful=False)
                while all(map(alive, killed.values())) and time.monotonic() < end and not over.wait(0.02):
                    pass  # its worker lives on for a moment
            finally:
                (tmp_path / "run" / GO).touch()

        threading.Thread(target=kill, daemon=True).start()

        def execute(jobs, report):
            run_ray([Held(**vars(job)) for job in jobs], cluster.address, report)

        run = evaluation.perform(tmp_path / "run", execute, several(), threads=1)
        assert len(killed) == 2
        end = time.monotonic() + LONGEST
        while (left := ray.cluster_resources()["CPU"]) > 1 and time.monotonic() < end:
            time.sleep(0.1)  # Ray's books are behind
        assert left == 1
    finally:
        over.set()
        ray.shutdown()
        cluster.shutdown()
    begun = {name: [e["at"] for e in events(run, f"rex/{name}") if e["event"] == "training"] for name in TRAININGS}
    print("killed while", killed, "; trainings began at", begun)
    again = [name for name, at in begun.items() if len(at) > 1]
    assert len(again) == 1 and again[0] in killed  # the dead node's piece, and no other
    assert begun[again[0]][1] >= 100  # and it went on where its last state was
    for name in TRAININGS:
        assert len([e for e in events(run, f"rex/{name}") if e["event"] == "trained"]) == 1
    every = [key for name in ("base", *TRAININGS) for key in drawn(run, f"rex/{name}")]
    assert len(every) == len(set(every)) == 16
    assert len(run.rows("rex")) == 4 * 2 + 3 * 2
