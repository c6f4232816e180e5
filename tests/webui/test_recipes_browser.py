"""The choice of a recipe in the training tab: what it says, what it closes, and the pictures of the class."""

import os
import re

import pytest
from browser import missing
from training_page import LONG, PANEL, fill, press, state, train, views

if reason := missing():
    pytestmark = pytest.mark.skip(reason=f"No browser: {reason}")

SHOTS = os.environ.get("PERSRES_SHOTS")
"""A folder for pictures of the page, if one is named."""
CLOSED = (
    "return [...gradioApp().querySelectorAll('#persres_training_advanced :is(input, textarea)')]"
    ".filter((each) => each.disabled).map((each) => each.closest('[id^=persres_training_]').id)"
)


@pytest.fixture
def page(training_page):
    return training_page


@pytest.fixture(scope="module")
def photos(drawn_photos):
    return drawn_photos


def pick(page, name):
    """A recipe from the list, as a click does it; what is said of it."""
    field = "gradioApp().querySelector('#persres_training_recipe input')"
    found = (
        "[...gradioApp().querySelectorAll('#persres_training_recipe li, ul.options li')]"
        ".find((each) => each.innerText.replace('✓', '').trim().startsWith(`${arguments[0]} (`))"
    )
    page.wait(f"{field}.focus(); {field}.click(); return {found} && true", name)
    page.run(f"{found}.dispatchEvent(new MouseEvent('mousedown', {{bubbles: true}}))", name)
    page.wait(f"return {field}.value.startsWith(`${{arguments[0]}} (`)", name)


def about(page, part):
    text = "gradioApp().querySelector('#persres_training_about').innerText"
    page.wait(f"return {text}.includes(arguments[0])", part)
    return page.run(f"return {text}")


def shot(page, name):
    if SHOTS:
        page.driver.save_screenshot(os.path.join(SHOTS, f"{name}.png"))


def test_choosing_a_recipe_says_what_it_takes_and_closes_what_its_stages_have_of_their_own(page):
    fill(page, steps=7)
    pick(page, "attn-residual")
    said = about(page, "3 stages: the word V* itself (60 steps), then keys and values (50 steps)")
    assert "2.5 times the work of the recipe paper" in said and "a file of" in said, said
    page.wait(f"return ({CLOSED[7:]}).length >= 4")
    closed = {name.removeprefix("persres_training_") for name in page.run(CLOSED)}
    assert closed == {"steps", "batch", "learning_rate", "targets"}
    assert page.value("persres_training_steps") == ""
    page.click("#persres_training_advanced .label-wrap")
    shot(page, "recipe-stages")
    pick(page, "paper")
    about(page, "How long it lasts here")
    page.wait(f"return !({CLOSED[7:]}).length")


def test_the_list_has_groups_and_a_rank_that_learns_nothing_is_warned_of_while_it_is_typed(page):
    field = "gradioApp().querySelector('#persres_training_recipe input')"
    page.run(f"{field}.focus(); {field}.click()")
    listed = "[...gradioApp().querySelectorAll('#persres_training_recipe li, ul.options li')]"
    found = page.wait(f"const found = {listed}.map((each) => each.innerText); return found.length > 10 && found")
    groups = [each.partition("(")[2].strip(") ") for each in found]
    assert groups[:4] == ["recommended"] * 3 + ["for the Toybox alone"] and set(groups[4:]) == {"comparison"}
    pick(page, "paper")
    about(page, "The rank 0.05m comes out at 2 in the narrowest layers of this model")
    for rank, warned in (("8", False), ("1", True), ("", True)):
        fill(page, rank=rank)
        page.run("gradioApp().querySelector('#persres_training_rank input').dispatchEvent(new Event('blur'))")
        text = "gradioApp().querySelector('#persres_training_about').innerText"
        page.wait(f"return {text}.includes('comes out at') == arguments[0]", warned)


def test_after_a_training_the_time_of_others_is_told_in_minutes(host, page, photos):
    pick(page, "word-first")
    assert "is measured in its first steps" in about(page, "2 stages")
    pick(page, "paper")
    fill(page, folder=str(photos), name="learned", **{"class": "ball"})
    fill(page, steps=4, batch=1, rank=8, crops=0, preview_every=0)
    train(page, '"learned" is in the queue')
    state(page, "finished")
    pick(page, "word-first")
    said = about(page, "here, by the last training on such a model")
    assert re.search(r"Lasts about [0-9.]+ (seconds|minutes|hours) here", said), said


def test_pictures_of_the_class_are_wanted_by_recipes_that_keep_it(host, page, photos):
    zone = "gradioApp().querySelector('#persres_training_others_drop').offsetParent"
    page.wait(f"return {zone} === null")
    pick(page, "dreambooth")
    about(page, "or the model first draws 64 of its own")
    page.wait(f"return {zone} && true")
    paths = sorted(photos.glob("*.png"))
    page.driver.find_element("css selector", "#persres_training_others_files").send_keys("\n".join(map(str, paths[:3])))
    shown = "gradioApp().querySelector('#persres_training_others_shown')"
    page.wait(f"return {shown}.querySelectorAll('.persres-view').length == 3")
    views(page, 0)
    page.click("#persres_training_others_shown .persres-remove")
    page.wait(f"return {shown}.querySelectorAll('.persres-view').length == 2")
    shot(page, "recipe-class")
    fill(page, folder=str(photos), name="learned", steps=3, rank=2, **{"class": "ball"})
    train(page, '"learned" is in the queue')
    state(page, "finished")
    (job,) = host.get("/persres/v1/train")
    kept = host.data / "persres-training" / job["id"] / "class_images"
    assert [path.read_bytes() for path in sorted(kept.iterdir())] == [path.read_bytes() for path in paths[1:3]]


def test_the_drawing_of_the_class_and_the_stage_are_shown_while_they_last(page, photos):
    pick(page, "dreambooth")
    about(page, "or the model first draws 64 of its own")
    fill(page, folder=str(photos), name="learned", rank=2, **{"class": "ball"})
    train(page, '"learned" is in the queue')
    page.wait(f"return {PANEL}.innerText.match(/drawing pictures of the class: [0-9]+ of 64/) && true", seconds=LONG)
    shot(page, "drawing")
    press(page, "stop")
    state(page, "stopped")
    page.run("window.confirm = () => true")
    press(page, "remove")
    pick(page, "attn-residual")
    about(page, "3 stages")
    train(page, '"learned" is in the queue')
    page.wait(
        f"return {PANEL}.innerText.match(/stage [123] of 3 .(embedding|kv|proj_out).: step [0-9]+ of/) && true",
        seconds=LONG,
    )
    shot(page, "stage")
    press(page, "cancel")
