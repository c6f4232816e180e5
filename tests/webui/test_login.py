"""--gradio-auth: where the page asks for a login, our routes do, too."""

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from host import ROOT, Host, make_data
from routes import ROUTES


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """Its page has a login, its API no password of its own."""
    data = tmp_path_factory.mktemp("locked") / "data"
    make_data(data, {"persres": ROOT})
    (data / "logins.txt").write_text("bob:hidden:word\n")
    flags = "--gradio-auth", "ann:secret", "--gradio-auth-path", str(data / "logins.txt")
    locked = Host(Path(os.environ["PERSRES_WEBUI"]), data, *flags)
    try:
        yield locked.wait()
    finally:
        locked.stop()


def status(locked, method, path, auth=None, cookie=None, body=None) -> int:
    locked.auth = auth
    try:
        if cookie is None:
            locked.request(path, body, method)
        else:
            url = f"http://127.0.0.1:{locked.port}{path}"
            data = None if body is None else json.dumps(body).encode()
            headers = {"Cookie": cookie, "Content-Type": "application/json"}
            urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method)).read()
        return 200
    except urllib.error.HTTPError as error:
        error.read()
        return error.code
    finally:
        locked.auth = None


@pytest.fixture(scope="module")
def cookie(locked):
    form = urllib.parse.urlencode({"username": "ann", "password": "secret"}).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{locked.port}/login", form) as answer:
        found = [line.partition(";")[0] for line in answer.headers.get_all("set-cookie")]
    return next(each for each in found if each.startswith("access-token-unsecure"))


@pytest.mark.parametrize("method, path", ROUTES)
def test_a_stranger_is_refused_and_a_page_of_another_site_cannot_use_the_login(locked, cookie, method, path):
    for auth in (None, "ann:wrong", "bob:secret", "bob:hidden"):
        assert status(locked, method, path, auth) == 401
    assert status(locked, method, path, cookie=cookie) == 401


def test_each_login_opens_them(locked):
    for auth in ("ann:secret", "bob:hidden:word"):
        assert status(locked, "GET", "/persres/v1/residuals", auth) == 200
        assert status(locked, "GET", "/persres/v1/train", auth) == 200
        assert status(locked, "GET", "/persres/v1/train/x", auth) == 404


def test_the_pages_own_questions_want_its_login(locked, cookie):
    question = {"data": ["{}"]}
    assert status(locked, "POST", "/run/persres_training", body=question) == 401
    assert status(locked, "POST", "/run/persres_training", cookie=cookie, body=question) == 200


def test_uploaded_and_drawn_pictures_want_its_login(locked, cookie):
    assert status(locked, "POST", "/upload") == 401
    assert status(locked, "GET", f"/file={locked.data}/persres-training/presets.json") == 401
