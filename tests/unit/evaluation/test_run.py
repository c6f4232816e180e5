"""Runs: complete, the same noise for every method, stopped anywhere and gone on, nothing lost or done twice."""

import json
import multiprocessing
import os
import signal
import threading
import time

import pytest
from evaluation_bench import PROMPTS, Evaluation, Means, drawn, events, files, tiny_suite
from ready_processes import ready

from lib_persres.errors import PersresError
from lib_persres.evaluation import drawing, scoring
from lib_persres.evaluation import piece as pieces
from lib_persres.evaluation.protocol import noise_seed
from lib_persres.evaluation.run import rescore
from lib_persres.evaluation.run_folder import PieceFolder
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
    piece = whole.piece("rex", "residual").facts
    assert piece["steps"] == 4 and piece["train_seconds"] >= 0 and piece["peak_bytes"] > 0
    assert (whole.piece("rex", "residual").path / "residual+lag" / "masks.npz").is_file()
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
    folder = run.piece("rex", learned).path
    name = sorted(path.name for path in (folder / "residual").glob("*.png"))[0]
    drawn_by = {m["name"]: (folder / m["name"] / name).read_bytes() for m in raw["methods"][1:]}
    assert len(set(drawn_by.values())) == 5
    assert drawn_by["silent"] == (run.piece("rex", "base").path / "base" / name).read_bytes()


def test_noise_differs_from_picture_to_picture():
    seeds = {noise_seed(prompt, image) for prompt in range(30) for image in range(60)}
    assert len(seeds) == 1800


def times(run):
    return {path: path.stat().st_mtime_ns for path in run.root.rglob("*") if path.is_file() and path.name != ".lock"}


def nothing(missing, report):
    pytest.fail(f"done again: {missing}")


def test_a_finished_run_is_not_touched_again(evaluation, whole, monkeypatch):
    monkeypatch.setattr(Means, "images", lambda *_: pytest.fail("it is scored again"))
    before = times(whole)
    evaluation.perform(whole.root, nothing)
    assert times(whole) == before


def test_an_edited_description_refuses_nothing_and_repeats_nothing(evaluation, whole, monkeypatch):
    monkeypatch.setattr(Means, "images", lambda *_: pytest.fail("it is scored again"))
    raw = tiny_suite() | {"about": "said better"}
    raw["methods"][1]["about"] = "so, too"
    before = times(whole)
    evaluation.perform(whole.root, nothing, raw)
    changed = {path.name for path, when in times(whole).items() if before[path] != when}
    assert changed == {"run.json"} and whole.load()["suite"]["about"] == "said better"


def test_an_added_method_is_done_beside_what_is_there(evaluation, tmp_path, monkeypatch):
    run = evaluation.perform(tmp_path / "run", run_here)
    before, rows = files(run), run.rows("rex")
    raw = tiny_suite()
    raw["methods"].append({"name": "half", "training": "residual", "strength": 0.5})
    seen, real = [], Means.images
    monkeypatch.setattr(Means, "images", lambda self, images: seen.append(len(images)) or real(self, images))
    evaluation.perform(run.root, run_here, raw)
    after = files(run)
    assert {name for name in after if "/half/" in name} == after.keys() - before.keys()
    assert all(after[name] == data for name, data in before.items() if name.endswith((".png", ".npz")))
    assert run.rows("rex")[: len(rows)] == rows and {r["method"] for r in run.rows("rex")[len(rows) :]} == {"half"}
    assert sum(seen) == 4 + 2  # its own pictures, and the photos that they are compared with
    every = drawn(run, "rex/base") + drawn(run, "rex/residual")
    assert len(every) == len(set(every)) == 32


def test_more_pictures_of_a_prompt_are_added_to_those_that_are_there(evaluation, tmp_path):
    run = evaluation.perform(tmp_path / "run", run_here, tiny_suite(images=1))
    evaluation.perform(tmp_path / "run", run_here)
    every = drawn(run, "rex/base") + drawn(run, "rex/residual")
    assert len(every) == len(set(every)) == 24
    assert len([row for row in run.rows("rex") if row["category"] != "without V*"]) == 3 * 4


@pytest.mark.parametrize(
    "path, value, said",
    [
        (("methods", 1, "training", "changes", "steps"), 5, "residual holds another training .recipe"),
        (("methods", 1, "training", "seed"), 1, "residual holds another training .seed"),
        (("methods", 2, "strength"), 0.5, r"residual holds another residual\+lag/how .strength"),
        (("sampling", "steps"), 3, "base holds another base/how .steps"),
    ],
)
def test_what_contradicts_what_is_there_is_refused_and_changes_nothing(evaluation, whole, path, value, said):
    raw = where = tiny_suite()
    for key in path[:-1]:
        where = where[key]
    where[path[-1]] = value
    before = times(whole)
    with pytest.raises(PersresError, match=f"{said}.: give another folder with --out"):
        evaluation.perform(whole.root, nothing, raw)
    assert times(whole) == before


def test_another_prompt_in_the_place_of_a_drawn_one_is_refused(evaluation, whole):
    evaluation.prompts.write_text(PROMPTS.replace("beach", "moon"))
    try:
        with pytest.raises(PersresError, match="rex/base holds another base/001-000 .its prompt"):
            evaluation.perform(whole.root, nothing)
    finally:
        evaluation.prompts.write_text(PROMPTS)


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
    ours, theirs = (Residual.load(r.piece("rex", "residual").residual) for r in (run, whole))
    assert all(ours.factors[n].up.equal(theirs.factors[n].up) for n in theirs.factors)


@pytest.mark.parametrize("after", [1, 11, 20])
def test_a_run_stopped_in_sampling_draws_no_picture_twice(evaluation, whole, tmp_path, monkeypatch, after):
    left = [after]
    real = PieceFolder.write_picture

    def stopping(*given):
        if not left[0]:
            raise Stopped
        left[0] -= 1
        real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(PieceFolder, "write_picture", stopping)
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
    file = whole.root / "scores" / "rex.jsonl"
    before = file.read_bytes()
    file.unlink()
    rescore(whole, Scorer(clip=Means()))
    assert file.read_bytes() == before


def test_scores_are_made_anew_by_another_scorer_alone(evaluation, whole, monkeypatch):
    real, seen = scoring._Scoring.rows, []
    monkeypatch.setattr(scoring._Scoring, "rows", lambda self, method: seen.append(method.name) or real(self, method))
    other = Means()
    other.digest = "others"
    for scorer, expected in ((Means(), []), (other, list(METHODS)), (Means(), list(METHODS))):
        seen.clear()
        evaluation.perform(whole.root, nothing, scorer=Scorer(clip=scorer))
        assert seen == expected


def test_a_missing_picture_is_named(evaluation, tmp_path):
    run = evaluation.perform(tmp_path / "run", run_here)
    gone = run.piece("rex", "base").picture("base", "001-000")
    gone.unlink()
    with pytest.raises(PersresError, match="001-000.png cannot be scored"):
        rescore(run, Scorer(clip=Means()))


def test_a_folder_of_another_run_is_refused(evaluation, whole, monkeypatch):
    before = times(whole)
    monkeypatch.setattr(evaluation, "checkpoint", evaluation.prompts)  # any other file
    with pytest.raises(PersresError, match="holds another run .its base is not the same"):
        evaluation.perform(whole.root, nothing)
    assert times(whole) == before


def test_a_piece_that_cannot_be_done_is_named_and_the_others_are_done(evaluation, tmp_path):
    raw = tiny_suite()
    raw["methods"][1]["training"]["changes"]["rank"] = "banana"
    with pytest.raises(PersresError, match="1 of 2 pieces could not be done, such as rex/residual: .*banana"):
        evaluation.perform(tmp_path / "run", run_here, raw)
    assert (tmp_path / "run" / "pieces" / "rex" / "base" / "piece.json").is_file()


def test_only_names_concepts_of_the_suite(evaluation, tmp_path):
    with pytest.raises(PersresError, match="no concept 'tom' here; it has: rex"):
        evaluation.perform(tmp_path / "run", run_here, only=["tom"])
