"""A training in parts: in micro-batches, in several `with`, and in several processes."""

import json

import longhand
import pytest
import torch
from rounding import assert_learned_alike
from trainer_bench import STAGES, make, steps, weights

from lib_persres.errors import PersresError
from lib_persres.training.recipe import Recipe


@pytest.fixture(scope="module")
def whole(sd, photos):
    """A training that nothing interrupts or watches, and its losses."""
    trainer = make(sd, photos)
    return trainer, steps(trainer, 6)


@pytest.fixture(scope="module")
def watched(sd, photos, tmp_path_factory):
    """The same, looked at and saved before each step and after the last: the trainer, and where its states are."""
    folder = tmp_path_factory.mktemp("states")
    with make(sd, photos) as trainer:
        while not trainer.finished:
            trainer.residual()
            trainer.save_state(folder / f"{trainer.done}.state")
            trainer.step()
    trainer.save_state(folder / "6.state")
    return trainer, folder


# -- resuming


@pytest.mark.parametrize("at", [0, 1, 3, 4, 6])
def test_a_resumed_training_is_bit_identical_to_an_uninterrupted_one(sd, photos, whole, watched, at):
    whole, losses = whole
    again = make(sd, photos)
    torch.rand(3)
    again.load_state(watched[1] / f"{at}.state")
    assert again.done == at and again.losses == losses[:at]
    assert losses[at:] == steps(again, 6 - at)
    assert torch.equal(weights(again), weights(whole)) and again.finished
    assert again.residual().metadata.loss == whole.residual().metadata.loss


def test_a_host_that_replaces_torch_load_does_not_stop_a_training_from_being_resumed(sd, photos, tmp_path, monkeypatch):
    with make(sd, photos) as trainer:
        trainer.step()
        trainer.save_state(tmp_path / "state")
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: None)  # what the WebUI's answers for such a file
    again = make(sd, photos)
    again.load_state(tmp_path / "state")
    assert again.done == 1


def test_saving_a_state_or_looking_at_the_residual_does_not_change_the_training(whole, watched):
    trainer, folder = watched
    assert torch.equal(weights(trainer), weights(whole[0])) and trainer.losses == whole[1]
    assert sorted(path.name for path in folder.iterdir()) == [f"{at}.state" for at in range(7)]


@pytest.mark.parametrize(
    "change, named",
    [
        ({"seed": 6}, "seed"),
        ({"recipe": Recipe("test", "a test's", STAGES, crops=2)}, "recipe"),
    ],
)
def test_the_state_of_another_training_is_refused_and_nothing_is_taken_from_it(sd, photos, watched, change, named):
    other = make(sd, photos, **change)
    before = weights(other)
    with pytest.raises(PersresError, match=f"state cannot be continued.*another training.*{named}"):
        other.load_state(watched[1] / "2.state")
    with pytest.raises(PersresError, match="the photos"):
        make(sd, photos[:1]).load_state(watched[1] / "2.state")
    assert other.done == 0 and torch.equal(weights(other), before)


def test_a_state_whose_recipe_lacks_what_later_ones_have_is_continued(sd, photos, whole, watched, tmp_path):
    state = torch.load(watched[1] / "2.state", weights_only=True)
    recipe = json.loads(state["facts"]["recipe"])
    del recipe["mask"], recipe["stages"][0]["map_form"]
    torch.save({**state, "facts": {**state["facts"], "recipe": json.dumps(recipe)}}, tmp_path / "state")
    again = make(sd, photos)
    again.load_state(tmp_path / "state")
    assert again.done == 2 and steps(again, 4) == whole[1][2:]
    recipe["crops"] += 1
    torch.save({**state, "facts": {**state["facts"], "recipe": json.dumps(recipe)}}, tmp_path / "state")
    with pytest.raises(PersresError, match="another training.*recipe"):
        make(sd, photos).load_state(tmp_path / "state")


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"nonsense"])
def test_a_damaged_state_is_refused_in_one_sentence(sd, photos, tmp_path, damage):
    trainer = make(sd, photos)
    trainer.save_state(tmp_path / "state")
    (tmp_path / "state").write_bytes(damage((tmp_path / "state").read_bytes()))
    with pytest.raises(PersresError) as error:
        trainer.load_state(tmp_path / "state")
    assert "state cannot be continued" in str(error.value) and "\n" not in str(error.value)


def test_a_state_that_cannot_be_written_is_told_and_leaves_no_part(sd, photos, tmp_path):
    (tmp_path / "state").mkdir()
    with pytest.raises(PersresError, match="state cannot be written"):
        make(sd, photos).save_state(tmp_path / "state")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


# -- in parts


@pytest.mark.parametrize("size", [1, 2, 4, 5, 9])
def test_micro_batches_learn_the_same_to_rounding(sd, photos, whole, size):
    whole, losses = whole
    parts = make(sd, photos, micro_batch=size)
    start = weights(parts)
    assert steps(parts, 6) == pytest.approx(losses, rel=1e-3)
    assert_learned_alike(weights(parts), weights(whole), start)


def test_a_training_may_be_left_and_entered_again(sd, photos, whole):
    parts = make(sd, photos)
    before = longhand.snapshot(sd.unet)
    while not parts.finished:
        steps(parts, 1)
        assert longhand.snapshot(sd.unet) == before
    assert torch.equal(weights(parts), weights(whole[0]))


def test_a_step_outside_of_with_or_after_the_end_is_refused(sd, photos, watched):
    with pytest.raises(PersresError, match="with"):
        make(sd, photos).step()
    trainer = make(sd, photos)
    trainer.load_state(watched[1] / "6.state")
    with trainer, pytest.raises(PersresError, match="6 steps are done"):
        trainer.step()


# -- memory


def limited(sd, rows, monkeypatch):
    """A UNet that has memory for so many rows with gradients."""
    original, seen = sd.unet.forward, []

    def forward(x, *args, **kwargs):
        if torch.is_grad_enabled():
            seen.append(len(x))
            if len(x) > rows:
                raise torch.cuda.OutOfMemoryError("out of memory")
        return original(x, *args, **kwargs)

    monkeypatch.setattr(sd.unet, "forward", forward)
    return seen


def test_where_memory_is_short_the_micro_batch_is_halved_and_the_result_stays(sd, photos, whole, monkeypatch):
    losses = whole[1]
    seen = limited(sd, 2, monkeypatch)
    small = make(sd, photos, shrink=True)
    assert steps(small, 6) == pytest.approx(losses, rel=1e-3)
    assert small.micro_batch == 2 and seen[0] == 5 and max(seen[2:]) <= 2
    assert len(small.notes) == 1 and small.notes[0].endswith("the model 2 at a time.")


def test_without_leave_to_shrink_the_sentence_says_what_to_lower(sd, photos, monkeypatch):
    limited(sd, 0, monkeypatch)
    with pytest.raises(PersresError, match="memory for 5 rows.*micro-batch"):
        steps(make(sd, photos), 1)
    with pytest.raises(PersresError, match="memory for 1 row of"):
        steps(make(sd, photos, shrink=True), 1)
