"""The WebUI of these tests is the checkout that PERSRES_WEBUI names; without one nothing here is collected.

Its Python is the one in its folder venv, or PERSRES_WEBUI_PYTHON. Nothing is written into the checkout: the tests
give the WebUI a data folder of their own, with a tiny model in it.
"""

import os
from pathlib import Path

import pytest

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
    from host import ROOT, Host, make_data

    data = tmp_path_factory.mktemp("with") / "data"
    make_data(data, {"some-folder-name": ROOT, "probe": Path(__file__).parent / "probe"})
    host = Host(Path(WEBUI), data)
    try:
        yield host.wait()
    finally:
        host.stop()
