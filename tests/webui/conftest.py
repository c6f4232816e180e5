"""The WebUI of these tests is the checkout that PERSRES_WEBUI names; without one nothing here is collected.

Its Python is the one in its folder venv, or PERSRES_WEBUI_PYTHON. Nothing is written into the checkout: the tests
give the WebUI a data folder of their own, with a tiny model in it.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

WEBUI = os.environ.get("PERSRES_WEBUI")
if not WEBUI:
    collect_ignore_glob = ["*"]


FAILED = pytest.StashKey[int]()
"""The tests that had failed when the WebUI was last put in order."""


def pytest_terminal_summary(terminalreporter):
    if not WEBUI:
        terminalreporter.write_line("tests/webui did not run: PERSRES_WEBUI does not name a WebUI checkout.")


@pytest.fixture(autouse=True)
def after_a_failure(request):
    """A test that failed in its middle may have left a training at work, or files: the next one begins without."""
    failed = request.session.testsfailed
    if request.session.stash.get(FAILED, 0) != failed and "host" in request.fixturenames:
        request.session.stash[FAILED] = failed
        request.getfixturevalue("host").restore()


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """Images of the WebUI without this extension, by name."""
    from host import Host, make_data
    from requests_without import REQUESTS

    data = tmp_path_factory.mktemp("without") / "data"
    make_data(data, {})
    host = Host(Path(WEBUI), data)
    try:
        host.wait()
        return {name: host.generate(**request).images for name, request in REQUESTS.items()}
    finally:
        host.stop()


@pytest.fixture(scope="session")
def host(tmp_path_factory, reference):
    """A WebUI with this extension and the probe. It comes after `reference`, so that one runs at a time."""
    from checkout import EXTENSIONS
    from host import ROOT, Host, make_data

    data = tmp_path_factory.mktemp("with") / "data"
    make_data(data, {"some-folder-name": ROOT, "probe": EXTENSIONS["probe"]})
    host = Host(Path(WEBUI), data)
    try:
        yield host.wait()
    finally:
        host.stop()


@pytest.fixture
def folder(host):
    """The folder of residuals; what a test puts there is taken out."""
    folder = host.data / "models" / "persres"
    before = set(folder.rglob("*"))
    yield folder
    for path in sorted(set(folder.rglob("*")) - before, reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    host.post("/persres/v1/refresh")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for index in range(2):
        pixels = np.random.default_rng(index).integers(0, 255, (80, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def training_browser(host, tmp_path_factory):
    from browser import Browser

    browser = Browser(f"http://127.0.0.1:{host.port}", tmp_path_factory.mktemp("profile"))
    try:
        yield browser
    finally:
        browser.close()


@pytest.fixture
def training_page(host, training_browser):
    """The page anew with the tab in sight and no trainings; it may not complain about anything."""
    from training_page import show

    host.end_trainings()
    for path in (host.data / "models" / "persres").glob("learned*"):
        path.unlink()
    (host.data / "persres-training" / "presets.json").unlink(missing_ok=True)
    training_browser.recover()
    show(training_browser)
    training_browser.run("sessionStorage.clear()")  # else the page has the images of the one before
    show(training_browser)
    training_browser.errors()
    yield training_browser
    assert training_browser.errors() == []


@pytest.fixture(scope="module")
def drawn_photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(5):
        image = Image.new("RGB", (96, 80), "white")
        ImageDraw.Draw(image).ellipse((10 + 5 * number, 10, 60 + 5 * number, 60), fill="teal")
        image.save(folder / f"{number}.png")
    return folder
