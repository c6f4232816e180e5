"""A Ray cluster of two nodes of which one is killed in mid-run: nothing is lost, nothing is done twice."""

import threading
import time

import pytest

ray = pytest.importorskip("ray", reason="Ray is an optional extra")

from evaluation_bench import Evaluation, drawn, events, tiny_suite  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from lib_persres.evaluation.ray_workers import run_ray  # noqa: E402

STEPS = 900
TRAININGS = ("one", "two", "three")


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


def test_a_killed_node_loses_nothing_and_nothing_is_done_twice(tmp_path, monkeypatch):
    evaluation = Evaluation(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ":".join(__import__("sys").path))
    monkeypatch.setenv("RAY_DISABLE_IMPORT_WARNING", "1")
    small = {"object_store_memory": 80_000_000, "num_cpus": 1}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    try:
        second = cluster.add_node(**small)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False)
        assert ray.cluster_resources()["CPU"] == 2
        killed = []

        def kill():
            """The second node, as soon as two trainings have kept a state: one of them is its."""
            while not killed:
                logs = list((tmp_path / "run" / "pieces" / "rex").glob("*/log.jsonl"))
                begun = [log for log in logs if '"kept"' in log.read_text() and '"trained"' not in log.read_text()]
                if len(begun) == 2:
                    killed.append([log.parent.name for log in begun])
                    cluster.remove_node(second, allow_graceful=False)
                time.sleep(0.01)

        threading.Thread(target=kill, daemon=True).start()
        run = evaluation.perform(
            tmp_path / "run", lambda pieces, report: run_ray(pieces, cluster.address, report), several(), threads=1
        )
        assert killed and ray.cluster_resources()["CPU"] == 1
    finally:
        ray.shutdown()
        cluster.shutdown()
    begun = {name: [e["at"] for e in events(run, f"rex/{name}") if e["event"] == "training"] for name in TRAININGS}
    print("killed while", killed, "; trainings began at", begun)
    again = [name for name, at in begun.items() if len(at) > 1]
    assert len(again) == 1 and again[0] in killed[0]  # the dead node's piece, and no other
    assert begun[again[0]][1] >= 100  # and it went on where its last state was
    for name in TRAININGS:
        assert len([e for e in events(run, f"rex/{name}") if e["event"] == "trained"]) == 1
    every = [key for name in ("base", *TRAININGS) for key in drawn(run, f"rex/{name}")]
    assert len(every) == len(set(every)) == 16
    assert len(run.rows("rex")) == 4 * 2 + 3 * 2
