"""From five photos to pictures under LAG on the Toybox, in headless Chromium as users go: drop, train, card, generate.

PERSRES_SCREENSHOTS names a folder for what the page looks like at each step.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import Browser, missing
from checkout import EXTENSIONS
from host import ROOT, Host, configure, make_extensions
from PIL import Image
from training_page import LONG, PANEL, drop, fill, show, state, train, views

from lib_persres.toybox.concepts import CONCEPTS, photograph
from lib_persres.toybox.install import install
from lib_persres.toybox.judge import Judge

if reason := missing():
    pytestmark = pytest.mark.skip(reason=f"No browser: {reason}")

CONCEPT = next(concept for concept in CONCEPTS if concept.name == "gold")
ACCORDION = "script_txt2img_personalized_residuals"
PROMPT = f"<persres:mine:1.0> a photo of a V* {CONCEPT.cls}"


@pytest.fixture(scope="module")
def host(tmp_path_factory, reference):
    """It comes after `reference`, so that one WebUI starts at a time."""
    data = tmp_path_factory.mktemp("way") / "data"
    make_extensions(data, {"persres": ROOT, **EXTENSIONS})
    configure(data)
    install(data / "models" / "Stable-diffusion")
    host = Host(Path(os.environ["PERSRES_WEBUI"]), data)
    try:
        yield host.wait()
    finally:
        host.stop()


@pytest.fixture
def page(host, tmp_path):
    browser = Browser(f"http://127.0.0.1:{host.port}", tmp_path / "profile")
    try:
        yield browser
    finally:
        browser.close()


def shot(page, name: str) -> None:
    if folder := os.environ.get("PERSRES_SCREENSHOTS"):
        page.driver.set_window_size(1400, 1100)
        page.run("window.scrollTo(0, 0); document.activeElement.blur()")
        page.driver.save_screenshot(str(Path(folder) / f"{name}.png"))


def test_photos_become_a_picture_of_their_thing(host, page, tmp_path):
    show(page)
    drop(page, photograph(CONCEPT, tmp_path / "photos", 5))
    views(page, 5)
    fill(page, name="mine", **{"class": CONCEPT.cls})
    shot(page, "1-photos")

    train(page, '"mine" is in the queue')
    page.wait(f"return {PANEL}.querySelectorAll('figure img').length >= 2", seconds=LONG)
    shot(page, "2-training")
    assert state(page, "finished", "failed") == "finished"

    page.tab("tabs", "txt2img")
    page.tab("txt2img_extra_tabs", "Residuals")
    page.refresh_cards()
    page.wait("return [...gradioApp().querySelectorAll('#txt2img_residuals_cards > .card')].length == 1")
    page.click_card("mine")
    assert page.value("txt2img_prompt") == PROMPT
    shot(page, "3-card")

    page.tab("txt2img_extra_tabs", "Generation")
    page.set("txt2img_prompt", f"{PROMPT} on grass")
    for elem_id, value in (("steps", 20), ("width", 128), ("height", 128), ("batch_size", 4), ("seed", 3)):
        page.set(f"txt2img_{elem_id}", value)
    page.wait(f"return gradioApp().querySelector('#{ACCORDION}_lag').offsetParent && true")
    page.click(f"#{ACCORDION}_show_masks input")
    page.click("#txt2img_generate")
    page.wait("return gradioApp().querySelector('#txt2img_gallery img')?.naturalWidth && true", seconds=LONG)
    page.wait("return gradioApp().querySelector('#txt2img_results').innerText.includes('Persres mask') && true")
    page.wait("return !gradioApp().querySelector('#txt2img_interrupt').offsetParent")
    shot(page, "4-picture")
    assert page.errors() == []

    saved = sorted(host.data.glob("output*/txt2img-images/**/*.png"))
    pictures = [Image.open(path) for path in saved if "masks" not in path.stem]
    assert len(pictures) == 4 and all('Persres LAG auto: "mine: on"' in one.info["parameters"] for one in pictures)
    pixels = np.stack([np.asarray(one.convert("RGB")) for one in pictures])
    seen = Judge.load().see(torch.tensor(pixels).permute(0, 3, 1, 2) / 255)
    right = [one.background == "grass" and [thing.cls for thing in one.things] == [CONCEPT.cls] for one in seen]
    worn = [bool(one.things) and one.things[0].skin == CONCEPT.skin for one in seen]
    print("right", right, "worn", worn)
    assert sum(right) >= 3 and sum(worn) >= 3, seen
