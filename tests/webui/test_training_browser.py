"""The training tab as its users meet it: headless Chromium on the real WebUI."""

import json
import shutil
import time
from pathlib import Path

import pytest
from browser import missing
from PIL import Image
from training_page import LONG, PANEL, drop, fill, press, show, state, train, views

from lib_persres.lora.adapter import Adapter, load_file

if reason := missing():
    pytestmark = pytest.mark.skip(reason=f"No browser: {reason}")

ACCORDION = "script_txt2img_personalized_residuals"
POINTS = f"Number({PANEL}.querySelector('.persres-curve')?.dataset.points || 0)"


@pytest.fixture
def page(training_page):
    return training_page


@pytest.fixture(scope="module")
def photos(drawn_photos):
    return drawn_photos


def jobs(host, ready):
    """The trainings, once `ready` says so of them."""
    deadline = time.monotonic() + LONG
    while not ready(found := host.get("/persres/v1/train")):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


QUICK = {"steps": 400, "batch": 1, "rank": 2, "crops": 0, "preview_every": 150}


def test_five_images_become_a_tag_that_draws(host, page, photos):
    drop(page, sorted(photos.glob("*.png")))
    views(page, 5)
    fill(page, name="learned", **{"class": "ball"}, **QUICK)
    train(page, '"learned" is in the queue')

    # the curve moves
    state(page, "running")
    first = page.wait(f"return {POINTS}", seconds=LONG)
    page.wait(f"return {POINTS} > arguments[0]", first, seconds=LONG)
    page.wait(f"return {PANEL}.innerText.match(/of 400 steps · .*step.* left/) && true", seconds=LONG)

    # a reloaded page finds it again, and it stops with what it has
    show(page)
    state(page, "running")
    press(page, "stop")
    state(page, "stopped")
    (job,) = host.get("/persres/v1/train")
    assert 0 < job["done"] < 400 and (host.data / "models" / "persres" / "learned.safetensors").is_file()

    # it goes on where it was
    press(page, "resume")
    state(page, "running", "finished")
    (now,) = jobs(host, lambda all_: all_[0]["done"] > job["done"])
    assert now["loss"][0] == pytest.approx(job["loss"][0], rel=0.5)
    state(page, "finished")
    page.wait(f"return {PANEL}.querySelector('figure img').naturalWidth == 64")
    assert page.run(f"return [...{PANEL}.querySelectorAll('figcaption')].map((each) => each.innerText)") == [
        "plain",
        "LAG",
    ]

    # one of the previews becomes the card's picture
    page.click("#persres_training_panel .persres-do-picture-lag")
    said = f"{PANEL}.querySelector('.persres-part-done').innerText"
    page.wait(f"return {said} == 'The card of learned has this picture now.'")
    (status,) = host.get("/persres/v1/train")
    beside = host.data / "models" / "persres" / "learned.png"
    assert beside.read_bytes() == Path(status["preview"][-1]["lag"]).read_bytes()

    # it is saved as a LoRA, once
    press(page, "export")
    page.wait(f"return {said}.startsWith('Written: ')")
    exported = host.data / "models" / "Lora" / "learned.safetensors"
    assert isinstance(load_file(exported), Adapter)
    press(page, "export")
    page.wait(f"return {PANEL}.querySelector('.persres-part-said').innerText.includes('is there already')")
    exported.unlink()

    press(page, "send")
    prompt = "<persres:learned:1.0> a photo of a V* ball"
    page.wait("return gradioApp().querySelector('#tab_txt2img').offsetParent && true")
    assert page.value("txt2img_prompt") == prompt
    assert page.run(
        "return ['width', 'height'].map((side) => Number(gradioApp().querySelector(`#txt2img_${side} input`).value))"
    ) == [64, 64]
    page.wait(f"return gradioApp().querySelector('#{ACCORDION}_enabled-checkbox input').checked")
    page.set("txt2img_steps", 3)
    page.click("#txt2img_generate")
    page.wait("return gradioApp().querySelector('#txt2img_gallery img').naturalWidth == 64", seconds=LONG)
    made = sorted(host.data.glob("output*/txt2img-images/**/*.png"), key=lambda path: path.stat().st_mtime)[-1]
    infotext = Image.open(made).info["parameters"]
    assert prompt in infotext and "learned: " in infotext.partition("Persres hashes")[2]
    assert "Persres LAG: auto" in infotext


def test_a_second_tab_finds_what_runs_and_what_is_learned_has_a_picture_on_its_card(host, page, photos):
    fill(page, folder=str(photos), name="learned", **{"class": "ball"}, **QUICK)
    train(page, '"learned" is in the queue')
    state(page, "running")
    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    try:
        show(page)
        state(page, "running")
        page.wait(f"return {PANEL}.innerText.match(/of 400 steps.* left.*RAM [0-9.]+ GB/s) && true", seconds=LONG)
        assert page.run(f"return {PANEL}.querySelector('h3').innerText").startswith("learned")
        press(page, "stop")
        state(page, "stopped")
    finally:
        page.driver.close()
        page.driver.switch_to.window(first)
    state(page, "stopped")  # here, too
    page.tab("tabs", "txt2img")
    page.tab("txt2img_extra_tabs", "Residuals")
    page.refresh_cards()
    card = "gradioApp().querySelector('#txt2img_residuals_cards .card[data-name=learned] img')"
    page.wait(f"return {card}.naturalWidth > 0")


def test_dragged_images_are_taken_and_a_reload_keeps_them(page, photos):
    drag(page, sorted(photos.glob("*.png"))[:3])
    views(page, 3)
    page.click("#persres_training_shown .persres-remove")
    views(page, 2)
    show(page)
    views(page, 2)
    # another tab begins empty
    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    show(page)
    assert page.value("persres_training_chosen") == "[]"
    page.driver.close()
    page.driver.switch_to.window(first)


def drag(page, paths):
    """Files from outside of the browser, dropped on the zone as a hand does it."""
    zone = page.driver.find_element("css selector", "#persres_training_drop").rect
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    place = {"x": zone["x"] + zone["width"] / 2, "y": zone["y"] + zone["height"] / 2}
    for kind in ("dragEnter", "dragOver", "drop"):
        page.driver.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, "data": data, **place})


def test_several_wait_are_moved_and_removed_and_one_is_cancelled(host, page, photos):
    fill(page, folder=str(photos), **{"class": "ball"}, **{**QUICK, "steps": 100_000})
    for number in (1, 2, 3):
        fill(page, name=f"learned{number}")
        train(page, f'"learned{number}" is in the queue')
    state(page, "running")
    order = f"return [...{PANEL}.querySelectorAll('li b')].map((each) => each.innerText).join()"
    page.wait(f"{order} == 'learned1,learned2,learned3'")
    page.click("#persres_training_panel li:nth-child(3) .persres-do-up")
    page.wait(f"{order} == 'learned1,learned3,learned2'")
    assert [job["concept"] for job in host.get("/persres/v1/train")] == ["learned1", "learned3", "learned2"]

    page.run("window.confirm = (text) => {window.persresAsked = text; return false}")
    press(page, "cancel")
    assert "Nothing of it is kept" in page.run("return window.persresAsked")
    assert host.get("/persres/v1/train")[0]["state"] == "running"

    page.run("window.confirm = () => true")
    page.click("#persres_training_panel li:nth-child(3) .persres-do-remove")
    page.wait(f"{order} == 'learned1,learned3'")
    press(page, "cancel")
    state(page, "cancelled")
    assert not (host.data / "models" / "persres" / "learned1.safetensors").exists()


def test_what_is_refused_is_said_where_one_looks(host, page, photos, tmp_path):
    train(page, "Photos, a name and a class are missing")
    fill(page, name="a/b", **{"class": "ball"})
    train(page, "Photos are missing")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    drop(page, [photos / "0.png", broken])
    page.wait(
        "return gradioApp().querySelector('#persres_training_shown .persres-wrong').innerText.includes('broken.png')",
    )
    train(page, "cannot be used")
    fill(page, name="learned")
    train(page, "broken.png cannot be read")
    page.click("#persres_training_shown .persres-wrong .persres-remove")
    page.wait("return !gradioApp().querySelector('#persres_training_shown .persres-wrong')")
    fill(page, steps="many")
    train(page, "Steps must be a whole number")
    # the WebUI's own warning as well
    page.wait("return gradioApp().innerText.includes('Steps must be') && true")
    page.run(f"{PANEL}; persresTrainingAsk({{do: 'stop', id: 'gone'}})")
    page.wait(f"return {PANEL}.querySelector('.persres-part-said').innerText.includes('There is no training')")
    assert host.get("/persres/v1/train") == []


def test_previews_come_unasked_and_an_old_training_is_not_taken_for_the_new_one(host, page, photos):
    quick = {**QUICK, "steps": 3, "preview_every": ""}
    fill(page, folder=str(photos), name="learned", **{"class": "ball"}, **quick)
    train(page, '"learned" is in the queue')
    said = "gradioApp().querySelector('#persres_training_said').innerText"
    page.wait(f"return {said}.includes('The rank 2 comes out at 2')")
    state(page, "finished")
    (job,) = host.get("/persres/v1/train")
    assert [each["step"] for each in job["preview"]] == [1, 2, 3] and job["request"]["preview_every"] == 1
    upper = f"{PANEL}.querySelector('h3')"
    assert page.run(f"return {PANEL}.innerText.includes('An earlier training')") is False
    show(page)  # another look, another day
    page.wait(f"return {PANEL}.innerText.includes('An earlier training, of 2') && {upper} && true")
    train(page, "Photos, a name and a class are missing")
    page.wait(f"return {upper} === null")
    page.click("#persres_training_panel .persres-queue li")
    page.wait(f"return {upper} !== null")


def test_settings_come_back_from_a_residual_and_a_preset(host, page, photos):
    shutil.copytree(photos, host.data / "tab photos", dirs_exist_ok=True)  # where a program may name it
    body = {"folder": str(host.data / "tab photos"), "concept": "learned", "macro_class": "ball", "recipe": "paper"}
    host.post("/persres/v1/train", {**body, "seed": 7, "steps": 3, "batch": 1, "rank": "2", "crops": 1})
    jobs(host, lambda all_: all_[0]["state"] == "finished")
    show(page)
    choose(page, "residual: learned")
    loaded(page, "Loaded from residual: learned")
    values = {name: page.value(f"persres_training_{name}") for name in ("name", "class", "steps", "rank", "seed")}
    assert values == {"name": "learned", "class": "ball", "steps": "3", "rank": "2", "seed": "7"}

    fill(page, steps=5, preset="fast")
    page.click("#persres_training_keep")
    said(page, 'The preset "fast" is kept.')
    assert json.loads((host.data / "persres-training" / "presets.json").read_text())["fast"]["steps"] == "5"
    show(page)
    choose(page, "preset: fast")
    loaded(page, "Loaded from preset: fast")
    assert page.value("persres_training_steps") == "5" and page.value("persres_training_name") == ""


def choose(page, source):
    """Pick it from the list as a click does."""
    page.wait("return gradioApp().querySelector('#persres_training_seen') && true")
    page.click("#persres_training_sources .label-wrap")
    field = page.wait(
        "const field = gradioApp().querySelector('#persres_training_source input'); return field.offsetParent && field"
    )
    found = "[...gradioApp().querySelectorAll('#persres_training_source li, ul.options li')]"
    wanted = f"{found}.find((each) => each.innerText.includes(arguments[0]))"
    page.wait(f"arguments[1].focus(); arguments[1].click(); return {wanted} && true", source, field)
    page.run(f"{wanted}.dispatchEvent(new MouseEvent('mousedown', {{bubbles: true}}))", source)


def loaded(page, sentence):
    page.click("#persres_training_load")
    said(page, sentence)


def said(page, sentence):
    page.wait(
        "return gradioApp().querySelector('#persres_training_loaded').innerText.includes(arguments[0])",
        sentence,
    )
