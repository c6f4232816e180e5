"""Two concepts in one picture: identifiers that differ, a wave after the trainings, truth, table and sheet."""

import pytest
import torch
from evaluation_bench import TINY, Evaluation, Means

from lib_persres.errors import PersresError
from lib_persres.evaluation import drawing
from lib_persres.evaluation.datasets import toybox as dataset
from lib_persres.evaluation.datasets.dataset import Concept, Pair
from lib_persres.evaluation.planning import Source
from lib_persres.evaluation.protocol import identifier_numbers, identifier_of
from lib_persres.evaluation.report import make, plots
from lib_persres.evaluation.run import rescore
from lib_persres.evaluation.scoring import Scorer
from lib_persres.evaluation.workers import run_here
from lib_persres.residual import Residual
from lib_persres.toybox.concepts import ToyConcept
from lib_persres.toybox.judge import Seen, SeenThing
from lib_persres.toybox.truth import Expected, score

METHODS = ("base", "residual", "residual+lag")
PAIR = "otto+luna"


def pair_suite() -> dict:
    training = {"name": "residual", "recipe": "paper", "changes": {"steps": 2, **TINY}}
    return {
        "name": "pairs",
        "methods": [
            {"name": "base", "training": None},
            {"name": "residual", "training": training},
            {"name": "residual+lag", "training": "residual", "lag": True},
            {"name": "first", "training": {**training, "name": "first"}, "concepts": 1},
        ],
        "sampling": {"steps": 2, "guidance": 3, "images": 1, "prompts": 1},
        "concepts": {"main": 3},
        "pairs": {"count": 2, "prompts": 2},
    }


class Pairs(Evaluation):
    def __init__(self, folder):
        super().__init__(folder)
        self.data = folder / "toybox"

    @property
    def source(self) -> Source:
        return Source("toybox", self.data)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    return Pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def whole(evaluation, tmp_path_factory):
    asked = []

    def execute(jobs, report):
        asked.append([job.name for job in jobs])
        run_here(jobs, report)

    run = evaluation.perform(tmp_path_factory.mktemp("whole"), execute, pair_suite())
    return run, asked


def rows_of(run):
    return run.rows(PAIR)


def test_pairs_come_after_their_trainings_and_have_the_methods_of_both(whole):
    run, (first, second) = whole
    assert second == [f"{PAIR}/base", f"{PAIR}/residual"] and not set(first) & set(second)
    # the second pair's other concept is not in the run, nor has the pair's second the method "first"
    assert {path.name for path in (run.root / "pieces").iterdir()} == {"otto", "luna", "stella", PAIR}
    rows = rows_of(run)
    assert sorted((row["method"], row["prompt"]) for row in rows) == [(m, p) for m in METHODS for p in range(2)]
    for row in rows:
        assert row["clip_image"] == pytest.approx((row["clip_image_first"] + row["clip_image_second"]) / 2, abs=2e-6)
        assert row["text"].startswith("a photo of a heart and a moon ")


def test_the_two_of_a_pair_have_identifiers_of_their_own(whole, monkeypatch, evaluation, tmp_path):
    run, _ = whole
    files = [run.piece(name, "residual").residual for name in ("otto", "luna", "stella")]
    assert [Residual.load(file).metadata.identifier for file in files] == ["olis", "phol", "olis"]
    seen, real = [], drawing.generate_each

    def generate_each(sd, prompts, find, **options):
        made = real(sd, prompts, find, **options)
        seen.extend((prompt, one.text, one.problems) for prompt, one in zip(prompts, made))
        return made

    monkeypatch.setattr(drawing, "generate_each", generate_each)
    again = evaluation.perform(tmp_path / "run", run_here, pair_suite())
    assert rows_of(again) == rows_of(run)
    pairs = [(prompt, text, problems) for prompt, text, problems in seen if "moon" in text and "heart" in text]
    assert {text for _, text, _ in pairs[:2]} == {text for _, text, _ in pairs[2:4]}  # base reads the same tokens
    prompt, text, problems = pairs[2]
    assert prompt.startswith("<persres:otto:1.0><persres:luna:1.0>a photo of a V1* heart and a V2* moon ")
    assert text.startswith("a photo of a olis heart and a phol moon ") and not problems


def test_a_finished_pair_is_not_drawn_again_and_scores_are_made_anew(whole, evaluation, monkeypatch):
    run, _ = whole
    monkeypatch.setattr(drawing, "generate_each", lambda *a, **o: pytest.fail("it samples"))
    file = run.root / "scores" / f"{PAIR}.jsonl"
    before = file.read_bytes()
    evaluation.perform(run.root, lambda jobs, report: pytest.fail(f"done again: {jobs}"), pair_suite())
    assert file.read_bytes() == before
    file.unlink()
    rescore(run, Scorer(clip=Means()))
    assert file.read_bytes() == before


def test_a_pair_whose_training_failed_is_named_and_the_rest_is_done(evaluation, tmp_path):
    def execute(jobs, report):
        for job in jobs:
            if job.name == "luna/residual":
                report(job.name, "it failed.")
            else:
                run_here([job], report)

    with pytest.raises(PersresError, match="2 of 9 pieces could not be done, such as luna/residual: it failed."):
        evaluation.perform(tmp_path / "run", execute, pair_suite())
    assert (tmp_path / "run" / "pieces" / PAIR / "base" / "piece.json").is_file()
    run = evaluation.perform(tmp_path / "run", run_here, pair_suite())
    assert len(rows_of(run)) == 6


def test_the_report_has_a_table_and_a_sheet_of_pairs(whole, monkeypatch):
    run, _ = whole
    for name in ("categories", "trade_off", "losses"):  # drawing is slow
        monkeypatch.setattr(plots, name, lambda *_: None)
    text = (make(run.root) / "report.md").read_text()
    section = text.split("## Two concepts in one picture")[1].split("\n## ")[0]
    assert "| residual+lag | 1 |" in section and "CLIP image, second" in section and "sheet-pair.jpg" in section
    assert (run.root / "report" / "sheet-pair.jpg").is_file()
    assert (run.root / "report" / "pairs.csv").read_text().count("\n") == 7
    assert PAIR not in (run.root / "report" / "scores.csv").read_text()
    assert "of 3 concepts" in text  # a pair is no concept


# -- identifiers


def test_identifiers_differ_within_each_pair_and_nowhere_else():
    def pair(*names):
        return Pair("+".join(names), tuple(Concept(name, "thing", (), ()) for name in names), ())

    chain = [pair("a", "b"), pair("b", "c"), pair("c", "a"), pair("d", "a")]
    numbers = identifier_numbers(chain)
    assert all(numbers.get(p.concepts[0].name, 0) != numbers.get(p.concepts[1].name, 0) for p in chain)
    assert numbers == {"b": 1, "c": 2, "d": 1}
    assert identifier_numbers([]) == {}
    assert [identifier_of(lambda word: [1], n) for n in range(3)] == ["olis", "phol", "ohwx"]


def test_the_toyboxs_neighbours_alternate(tmp_path):
    pairs = dataset.read(tmp_path).pairs
    numbers = identifier_numbers(pairs)
    assert len(pairs) == 6 and numbers == {pair.concepts[1].name: 1 for pair in pairs}


# -- the truth of two concepts

FIRST, SECOND = ToyConcept("a", "ball", "halves-0", "sand", 1), ToyConcept("b", "box", "target-2", "snow", 2)
ASKED = Expected(background="grass")


def look(*things, background="grass"):
    mask = torch.zeros(4, 4, dtype=torch.bool)
    seen = (SeenThing(cls, "red", "plain", skin, (64.0, 64.0), 0.1, mask) for cls, skin in things)
    return Seen(background, tuple(seen), 0.5)


@pytest.mark.parametrize(
    "things, both, own, other, each_own",
    [
        ([("box", "target-2"), ("ball", "halves-0")], 1, 1, 0, 1),
        ([("box", "halves-0"), ("ball", "target-2")], 1, 0, 1, 0),  # the skins changed places
        ([("box", "halves-0"), ("ball", "halves-0")], 1, 0.5, 0.5, 0),
        ([("ball", "halves-0")], 0, 0.5, 0, 0),
        ([("ball", "halves-0"), ("ball", "target-2")], 0, 0.5, 0, 0),
        ([("star", "emblem-1")], 0, 0, 0, 0),
        ([], 0, 0, 0, 0),
        ([("ball", "emblem-1"), ("ball", "halves-0"), ("box", "target-2")], 1, 1, 0, 1),
    ],
)
def test_the_truth_of_two_concepts(things, both, own, other, each_own):
    found = score(look(*things), ASKED, FIRST, SECOND)
    assert found == {"both": both, "own": own, "other": other, "each_own": each_own, "background": 1}


def test_the_background_counts_where_it_was_asked_for():
    assert score(look(background="snow"), ASKED, FIRST, SECOND)["background"] == 0
    assert score(look(), Expected(), FIRST, SECOND)["background"] is None
