"""Runs: complete, the same noise for every method, stopped anywhere and gone on, nothing lost or done twice."""

import json
import multiprocessing
import os
import signal
import threading
import time

import pytest
from evaluation_bench import Evaluation, Means, drawn, events, files, tiny_suite
from ready_processes import ready

from lib_persres.errors import PersresError
from lib_persres.evaluation import drawing, pieces
from lib_persres.evaluation.protocol import noise_seed
from lib_persres.evaluation.runner import rescore
from lib_persres.evaluation.scoring import Scorer
from lib_persres.evaluation.workers import run_here, run_local
from lib_persres.residual import Residual

METHODS = ("base", "residual", "residual+lag")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    return Evaluation(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture(scope="module")
def whole(evaluation, tmp_path_factory):
    """A run that nothing stopped."""
    return evaluation.perform(tmp_path_factory.mktemp("whole"), run_here)


def test_every_picture_is_drawn_once_and_scored(whole):
    expected = {(prompt, image) for prompt in range(4) for image in range(2)}  # two of the file, two without V*
    assert sorted(drawn(whole, "rex/base")) == [("base", *key) for key in sorted(expected)]
    both = [(method, *key) for method in METHODS[1:] for key in sorted(expected)]
    assert sorted(drawn(whole, "rex/residual")) == both
    rows = whole.rows("rex")
    assert {(r["method"], r["prompt"], r["image"]) for r in rows if r["category"] != "without V*"} == {
        (method, prompt, image) for method in METHODS for prompt in range(2) for image in range(2)
    }
    assert all("clip_text" in r and "clip_image" in r for r in rows if r["category"] != "without V*")
    drifts = [r for r in rows if r["category"] == "without V*"]
    assert {r["method"] for r in drifts} == set(METHODS[1:]) and all(r["drift"] >= 0 for r in drifts)
    piece = json.loads((whole.piece("rex", "residual") / "piece.json").read_text())
    assert piece["steps"] == 4 and piece["train_seconds"] >= 0 and piece["peak_bytes"] > 0
    assert (whole.piece("rex", "residual") / "residual+lag" / "masks.npz").is_file()
    assert not list(whole.root.rglob("*.partial")) and not list(whole.root.rglob("training.pt"))


def test_every_method_begins_from_the_same_noise(evaluation, tmp_path, monkeypatch):
    seen = {}

    def generate_each(sd, prompts, find, **options):
        method = "base" if find is None else "residual+lag" if options["lag"] else "residual"
        texts = [prompt.partition(">")[2] or prompt for prompt in prompts]
        seen.setdefault(method, []).extend(zip(texts, options["seeds"]))
        return real(sd, prompts, find, **options)

    real = drawing.generate_each
    monkeypatch.setattr(drawing, "generate_each", generate_each)
    evaluation.perform(tmp_path / "run", run_here)
    seeds = {method: [seed for _, seed in calls] for method, calls in seen.items()}
    assert seeds["base"] == seeds["residual"] == seeds["residual+lag"]
    assert len(set(seeds["base"])) == 8
    # the base model reads the tokens that the residual's prompt becomes
    base, plain = ([text for text, _ in seen[m]] for m in METHODS[:2])
    assert [text.replace("V*", "olis") for text in plain] == base and "V*" not in "".join(base)


def test_a_method_draws_at_its_strength_and_with_its_unconditional_row(evaluation, tmp_path):
    raw = tiny_suite(images=1)
    learned = raw["methods"][1]["training"]["name"]
    raw["methods"] += [
        {"name": "silent", "training": learned, "strength": 0},
        {"name": "half", "training": learned, "strength": 0.5},
        {"name": "base-row", "training": learned, "lag": True, "unconditional": "base"},
    ]
    run = evaluation.perform(tmp_path / "run", run_here, raw)
    folder = run.piece("rex", learned)
    name = sorted(path.name for path in (folder / "residual").glob("*.png"))[0]
    drawn_by = {m["name"]: (folder / m["name"] / name).read_bytes() for m in raw["methods"][1:]}
    assert len(set(drawn_by.values())) == 5
    assert drawn_by["silent"] == (run.piece("rex", "base") / "base" / name).read_bytes()


def test_noise_differs_from_picture_to_picture():
    seeds = {noise_seed(prompt, image) for prompt in range(30) for image in range(60)}
    assert len(seeds) == 1800


def test_a_finished_run_is_not_touched_again(evaluation, whole):
    before = {path: path.stat().st_mtime_ns for path in (whole.root / "pieces").rglob("*") if path.is_file()}
    evaluation.perform(whole.root, lambda missing, report: pytest.fail(f"done again: {missing}"))
    after = {path: path.stat().st_mtime_ns for path in (whole.root / "pieces").rglob("*") if path.is_file()}
    assert after == before


class Stopped(BaseException):
    """As a kill: nothing handles it."""


@pytest.mark.parametrize("step", [2, 3])
def test_a_run_stopped_in_training_goes_on_at_its_last_state(evaluation, whole, tmp_path, monkeypatch, step):
    monkeypatch.setattr(pieces, "SAVE_EVERY", 2)
    real = pieces.Trainer.step

    def stopping(trainer):
        if trainer.done == step:
            raise Stopped
        return real(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(pieces.Trainer, "step", stopping)
        with pytest.raises(Stopped):
            evaluation.perform(tmp_path / "run", run_here)
    run = evaluation.perform(tmp_path / "run", run_here)
    assert [row["at"] for row in events(run, "rex/residual") if row["event"] == "training"] == [0, 2]
    assert files(run) == files(whole)
    ours, theirs = (Residual.load(r.piece("rex", "residual") / "residual.safetensors") for r in (run, whole))
    assert all(ours.factors[n].up.equal(theirs.factors[n].up) for n in theirs.factors)


@pytest.mark.parametrize("after", [1, 11, 20])
def test_a_run_stopped_in_sampling_draws_no_picture_twice(evaluation, whole, tmp_path, monkeypatch, after):
    left = [after]
    real = drawing.write_picture

    def stopping(path, image):
        if not left[0]:
            raise Stopped
        left[0] -= 1
        real(path, image)

    with monkeypatch.context() as patch:
        patch.setattr(drawing, "write_picture", stopping)
        with pytest.raises(Stopped):
            evaluation.perform(tmp_path / "run", run_here)
    run = evaluation.perform(tmp_path / "run", run_here)
    every = drawn(run, "rex/base") + drawn(run, "rex/residual")
    assert len(every) == len(set(every)) == 24
    assert files(run) == files(whole)


def test_a_dead_worker_costs_its_unfinished_steps_alone(evaluation, tmp_path, monkeypatch):
    context = ready()
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: context)
    raw = tiny_suite(steps=120, images=1)
    killed = []

    def kill():
        """At the training's first kept state."""
        log = tmp_path / "run" / "pieces" / "rex" / "residual" / "log.jsonl"
        while not killed:
            lines = log.read_text().splitlines() if log.exists() else []
            if any('"kept"' in line for line in lines):
                killed.append(json.loads(lines[-1])["pid"])
                os.kill(killed[0], signal.SIGKILL)
            time.sleep(0.005)

    threading.Thread(target=kill, daemon=True).start()
    run = evaluation.perform(tmp_path / "run", lambda p, report: run_local(p, 1, report), raw, threads=1)
    begun = [row for row in events(run, "rex/residual") if row["event"] == "training"]
    assert [row["at"] for row in begun][0] == 0 and [row["at"] for row in begun][1] >= 100 and len(begun) == 2
    assert begun[0]["pid"] == killed[0] != begun[1]["pid"] != os.getpid()
    assert len([row for row in events(run, "rex/residual") if row["event"] == "trained"]) == 1
    every = drawn(run, "rex/base") + drawn(run, "rex/residual")
    assert len(every) == len(set(every)) == 12
    assert len(run.rows("rex")) == 10


def test_scores_made_again_without_sampling_are_the_same(whole, monkeypatch):
    monkeypatch.setattr(drawing, "generate_each", lambda *a, **o: pytest.fail("it samples"))
    before = whole.scores("rex").read_bytes()
    whole.scores("rex").unlink()
    rescore(whole, Scorer(clip=Means()))
    assert whole.scores("rex").read_bytes() == before


def test_a_missing_picture_is_named(evaluation, tmp_path):
    run = evaluation.perform(tmp_path / "run", run_here)
    gone = run.piece("rex", "base") / "base" / "001-000.png"
    gone.unlink()
    with pytest.raises(PersresError, match="001-000.png cannot be scored"):
        rescore(run, Scorer(clip=Means()))


def test_a_folder_of_another_run_is_refused(evaluation, whole):
    with pytest.raises(PersresError, match="holds another run .its suite is not the same"):
        evaluation.perform(whole.root, run_here, tiny_suite(steps=5))


def test_a_piece_that_cannot_be_done_is_named_and_the_others_are_done(evaluation, tmp_path):
    raw = tiny_suite()
    raw["methods"][1]["training"]["changes"]["rank"] = "banana"
    with pytest.raises(PersresError, match="1 of 2 pieces could not be done, such as rex/residual: .*banana"):
        evaluation.perform(tmp_path / "run", run_here, raw)
    assert (tmp_path / "run" / "pieces" / "rex" / "base" / "piece.json").is_file()


def test_only_names_concepts_of_the_suite(evaluation, tmp_path):
    with pytest.raises(PersresError, match="no concept 'tom' here; it has: rex"):
        evaluation.perform(tmp_path / "run", run_here, only=["tom"])
