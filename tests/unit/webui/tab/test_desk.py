"""What the training tab's page is answered: the queue, and a sentence where a button was refused."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from training_form_values import metadata

from lib_persres.errors import PersresError
from lib_persres.training.recipes import RECIPES
from lib_persres.webui.tab.desk import ACTIONS, Desk


class FakeShelf:
    def __init__(self, *entries):
        self.entries = entries


class FakeJobs:
    """Notes what it is asked."""

    def __init__(self):
        self.asked = []

    def list(self):
        status = {"id": "1", "concept": "rex", "macro_class": "dog", "file": "rex.safetensors", "name": "rex"}
        return [status, {**status, "id": "2", "file": None, "name": None}]

    def __getattr__(self, name):
        def act(*values):
            self.asked.append((name, *values))
            if values[0] == "gone":
                raise PersresError("There is no training gone.")
            if values[0] == "bad":
                raise RuntimeError("unforeseen")

        return act


def test_the_page_gets_every_training_and_the_prompt_of_those_with_a_file():
    answer = json.loads(Desk(FakeJobs(), FakeShelf(), str).answer(""))
    assert [job["prompt"] for job in answer["jobs"]] == ["<persres:rex:1.0> a photo of a V* dog", None]
    assert answer["error"] == ""


def test_the_side_that_it_was_learned_at_comes_with_the_prompt():
    entry = SimpleNamespace(path=Path("rex.safetensors"), metadata=metadata(RECIPES["paper"].changed(resolution=640)))
    answer = json.loads(Desk(FakeJobs(), FakeShelf(entry), str).answer(""))
    assert [job["side"] for job in answer["jobs"]] == [640, None]


def test_a_preview_becomes_the_cards_picture(tmp_path):
    picture = tmp_path / "preview.png"
    picture.write_bytes(b"a picture")
    status = {"concept": "rex", "macro_class": "dog", "name": "rex", "file": str(tmp_path / "rex.safetensors")}
    status["preview"] = [{"step": 7, "plain": str(tmp_path / "gone.png"), "lag": str(picture)}]
    jobs = SimpleNamespace(get=lambda identity: status, list=lambda: [])
    desk = Desk(jobs, FakeShelf(), str)

    def ask(**question):
        return json.loads(desk.answer(json.dumps({"do": "picture", "id": "1", "step": 7, "which": "lag", **question})))

    assert ask()["error"] == "" and (tmp_path / "rex.png").read_bytes() == b"a picture"
    for bad in ({"step": 8}, {"which": "../x"}, {"which": None}, {"step": [7]}):
        assert "not there any more" in ask(**bad)["error"]
    assert "cannot be written" in ask(which="plain")["error"]
    assert (tmp_path / "rex.png").read_bytes() == b"a picture"
    status["file"] = None
    assert "no file yet" in ask()["error"]


def test_a_file_is_saved_as_a_lora_and_what_is_written_is_said(tmp_path):
    status = {"concept": "rex", "macro_class": "dog", "name": "rex", "file": str(tmp_path / "rex.safetensors")}

    def export(path):
        if path.name == "there.safetensors":
            raise PersresError("there is there already.")
        return f"Written: {path}"

    desk = Desk(SimpleNamespace(get=lambda identity: status, list=lambda: []), FakeShelf(), export)

    def ask():
        answer = json.loads(desk.answer(json.dumps({"do": "export", "id": "1"})))
        return answer["done"], answer["error"]

    assert ask() == (f"Written: {status['file']}", "")
    status["file"] = "there.safetensors"
    assert ask() == ("", "there is there already.")
    status["file"] = None
    assert ask() == ("", '"rex" has no file yet: press Save now.')


def test_buttons_reach_the_queue():
    jobs = FakeJobs()
    desk = Desk(jobs, FakeShelf(), str)
    for action in ACTIONS:
        desk.answer(json.dumps({"do": action, "id": "1"}))
    desk.answer(json.dumps({"do": "move", "id": "2", "places": -1}))
    names = ["stop", "cancel", "save_now", "sample_now", "resume", "remove"]
    assert jobs.asked == [*((name, "1") for name in names), ("move", "2", -1)]


@pytest.mark.parametrize(
    "question, said",
    [
        ('{"do": "stop", "id": "gone"}', "There is no training gone."),
        ('{"do": "stop", "id": "bad"}', "unforeseen"),
        ('{"do": "submit", "id": "1"}', "not known here"),
        ('{"do": "__init__", "id": "1"}', "not known here"),
        ('{"do": "move", "id": "1"}', "not known here"),
        ("[1]", "no question"),
        ("{", "no question"),
    ],
)
def test_refusals_come_with_the_trainings(question, said):
    answer = json.loads(Desk(FakeJobs(), FakeShelf(), str).answer(question))
    assert said in answer["error"] and len(answer["jobs"]) == 2
