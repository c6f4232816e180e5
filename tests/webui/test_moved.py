"""What a host does with its memory between two pictures or two steps changes nothing of either: models that are moved,
unloaded, reloaded, kept in part or in fewer bits."""

import contextlib
import json
import os
import urllib.error

import pytest
import torch
from checkout import FLAGS, HOST, ROUNDING
from companions import OTHER
from moving import EXACT, LONG, SWAPPED, alike, learned, reload, trains, unload
from pictures import HIRES, LAG, REX, near, same
from trainings import ROUTE, assert_as_before, numbers, submit, wait

from lib_persres.residual import Residual

BASE = "a photo of a olis dog"


def drawn(host) -> list:
    ways = ((BASE, None, {}), (REX, None, {}), (REX, LAG, {}), (REX, LAG, HIRES))
    return [host.image(prompt, args, **more) for prompt, args, more in ways]


def test_the_host_computes_where_it_was_told_to(host):
    log = host.log.read_text()
    where = [line for line in log.splitlines() if line.startswith(("Device:", "Set vram state", "VAE dtype"))]
    print(*where, [line for line in log.splitlines() if "[Memory Management]" in line][-3:], sep="\n")
    if HOST == "backend":
        assert any(line.startswith("Device: cuda") for line in where) == ("--always-cpu" not in FLAGS), where


def test_what_was_unloaded_is_drawn_with_as_before(host):
    before = drawn(host)
    assert not near(before[0], before[1]) and not near(before[1], before[2])
    for _ in range(2):
        unload(host)
        reload(host)
        assert all(map(same, drawn(host), before))
        unload(host)
        reload(host)
        assert same(host.image(REX, LAG), before[2])
    assert host.get("/probe/hooks") == []


def test_a_change_of_the_checkpoint_and_back_changes_no_picture(host):
    before = drawn(host)
    with host.options(sd_model_checkpoint=OTHER):
        other = drawn(host)
        assert not near(other[0], before[0]) and not near(other[0], other[1])
    assert all(map(same, drawn(host), before))
    with host.options(sd_model_checkpoint=OTHER):
        assert all(map(same, drawn(host), other))
    hires = {**HIRES, "hr_checkpoint_name": OTHER}
    assert not near(host.image(REX, LAG, **hires), host.image(BASE, None, **hires))
    assert all(map(same, drawn(host), before))
    assert host.get("/probe/hooks") == []


@trains
def test_a_training_after_an_unload_learns_what_it_would_have_learned(host, photos):
    image = host.image("a dog")
    before = host.get("/probe/state")
    first = learned(host, photos, "first")
    assert_as_before(host, before, image)
    unload(host)
    reload(host)
    second = learned(host, photos, "second")
    print(f"cosine {alike(first, second):.6f}, the same bits: {torch.equal(numbers(first), numbers(second))}")
    assert alike(first, second) > 0.999
    assert same(host.image("a dog"), image)


@trains
@pytest.mark.parametrize("precision", ["", "float32", "bfloat16"])
def test_it_learns_in_every_type_and_the_residual_draws(host, photos, precision):
    name = f"typed {precision or 'own'}"
    status = wait(host, submit(host, photos, name, precision=precision, steps=40, preview_every=20))
    print(status["message"], status["loss"][:3], status["loss"][-3:])
    assert status["state"] == "finished", status
    found = Residual.load(status["file"])
    assert torch.isfinite(numbers(found)).all()
    prompt = f"a V* dog<persres:{name}>"
    own = host.image(f"a {found.metadata.identifier} dog")
    assert not same(host.image(prompt), own) and not same(host.image(prompt, LAG), own)
    os.unlink(status["file"])


@trains
def test_a_word_is_learned_and_drawn(host, photos):
    name = "word"
    status = wait(host, submit(host, photos, name, recipe="textual-inversion", rank=None, steps=30))
    assert status["state"] == "finished", status
    found = Residual.load(status["file"])
    (vectors,) = found.embeddings.values()
    assert torch.isfinite(vectors).all() and not found.factors
    result = host.generate(f"a V* dog<persres:{name}>")
    assert "Persres not applied" not in result.infotexts[0]
    assert not same(result.images[0], host.image(f"a {found.metadata.identifier} dog"))
    os.unlink(status["file"])


@trains
def test_images_of_both_checkpoints_and_unloads_come_between_the_steps_of_a_training(host, photos):
    image, before = host.image("a dog"), host.get("/probe/state")
    with host.options(sd_model_checkpoint=OTHER):
        other = host.image("a dog")
    assert same(host.image("a dog"), image)
    identity = submit(host, photos, "between", steps=100_000)
    wait(host, identity, done=5)
    assert same(host.image("a dog"), image)
    assert wait(host, identity, done=8)["state"] == "running"
    with host.options(sd_model_checkpoint=OTHER):
        assert same(host.image("a dog"), other)
    done = wait(host, identity, "failed", done=12)["done"]
    assert same(host.image(REX, LAG), host.image(REX, LAG))
    status = wait(host, identity, "failed", done=done + 4)
    assert status["state"] == "running", status
    host.post(f"{ROUTE}/{identity}/stop")
    status = wait(host, identity)
    assert status["state"] == "stopped" and torch.isfinite(numbers(Residual.load(status["file"]))).all()
    print(status["message"], status["done"], status["loss"][-3:])
    assert same(host.image("a dog"), image)
    now = host.get("/probe/state")
    assert {**now, "random": None} == {**before, "random": None}


@trains
def test_what_was_stopped_goes_on_after_an_unload_to_what_it_would_have_been(host, photos):
    identity = submit(host, photos, "stop and go", steps=LONG, seed=3)
    wait(host, identity, done=5)
    host.post(f"{ROUTE}/{identity}/save")
    host.post(f"{ROUTE}/{identity}/stop")
    status = wait(host, identity)
    assert status["state"] == "stopped" and status["done"] < LONG, status
    unload(host)
    reload(host)
    image = host.image("a dog")
    host.post(f"{ROUTE}/{identity}/resume")
    status = wait(host, identity, "finished", "failed")
    assert status["state"] == "finished", status
    resumed = Residual.load(status["file"])
    os.unlink(status["file"])
    whole = learned(host, photos, "without a stop", steps=LONG, seed=3)
    print(f"cosine {alike(resumed, whole):.6f}, the same bits: {torch.equal(numbers(resumed), numbers(whole))}")
    if EXACT:
        assert torch.equal(numbers(resumed), numbers(whole))
    assert alike(resumed, whole) > 0.99
    assert same(host.image("a dog"), image)


@pytest.fixture
def no_room(host):
    """The host keeps all memory for its computing, so that weights come to the card for each call only."""
    if HOST != "backend" or "--always-cpu" in FLAGS:
        pytest.skip("Only Forge on a card keeps a model in parts.")

    @contextlib.contextmanager
    def within():
        with host.options(forge_inference_memory=10_000_000):
            yield
        host.image("a dog")  # which unloads all, as the host does after such a change

    return within


def test_weights_that_come_for_each_call_draw_the_same(host, no_room):
    before = drawn(host)
    with no_room():
        print("the same bits:", [same(*pair) for pair in zip(drawn(host), before)])
        assert all(near(*pair, ROUNDING) for pair in zip(drawn(host), before))
        assert host.get("/probe/hooks") == []
        with host.split():
            assert near(host.image(REX, LAG), before[2], ROUNDING)
    assert all(map(same, drawn(host), before))


def test_where_the_weights_have_no_room_a_training_says_so(host, no_room, photos):
    image = host.image("a dog")
    with no_room():
        host.image("a dog")
        status = wait(host, submit(host, photos, "no room", steps=3))
        assert status["state"] == "failed", status
        assert "Training needs the whole UNet on the card at once" in status["message"]
        host.image("a dog")
        assert host.get("/probe/hooks") == []
    assert same(host.image("a dog"), image)
    if not SWAPPED:
        learned(host, photos, "with room", steps=3)
        assert same(host.image("a dog"), image)


def test_weights_of_eight_bits_draw_the_residual(host, photos):
    if HOST != "backend":
        pytest.skip("Only Forge has this setting.")
    image = host.image("a dog")
    memory = host.get("/sdapi/v1/options")["forge_inference_memory"]
    # the host reads the one setting again where the other changed
    with host.options(forge_unet_storage_dtype="float8-e4m3fn", forge_inference_memory=memory + 1):
        base, plain, lag, hires = drawn(host)
        assert not near(base, plain) and not near(plain, lag) and hires.shape == (128, 128, 3)
        assert same(host.image(REX.replace("rex", "rex:0"), LAG), base)
        with host.split():
            print("split, by", abs(host.image(REX, LAG).astype(int) - lag.astype(int)).max())
        with pytest.raises(urllib.error.HTTPError) as refused:
            submit(host, photos, "eight bits", steps=3)
        assert "The weights are kept in FP8" in json.loads(refused.value.read())["detail"]
        assert same(host.image(REX, LAG), lag)
    assert same(host.image("a dog"), image)
