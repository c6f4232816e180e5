"""The WebUI without its pages, behind a password, with the residuals' folder from the command line."""

import json
import os
import shutil
import urllib.error
from pathlib import Path

import pytest
from host import ROOT, Host, body_of, configure, make_data
from pictures import LAG, REX, near, same
from plots import cells
from routes import ROUTES


@pytest.fixture(scope="module")
def alone(tmp_path_factory, reference):
    data = tmp_path_factory.mktemp("alone") / "data"
    make_data(data, {"persres": ROOT})
    folder = data / "mine"
    shutil.move(data / "models" / "persres", folder)
    configure(data, persres_lag="perhaps", persres_dir=str(data))
    host = Host(Path(os.environ["PERSRES_WEBUI"]), data, "--nowebui", "--persres-dir", str(folder), auth="ann:secret")
    try:
        yield host.wait()
    finally:
        host.stop()


@pytest.mark.parametrize("password", [None, "ann:wrong", "bob:secret"])
@pytest.mark.parametrize(
    "method, path",
    [("POST", "/sdapi/v1/txt2img"), *ROUTES],
)
def test_without_the_password_no_route_answers(alone, method, path, password):
    right, alone.auth = alone.auth, password
    try:
        with pytest.raises(urllib.error.HTTPError) as error:
            # what a stranger sends is not even checked
            alone.request(path, body_of(REX, "bad", {}) if method == "POST" else None, method)
    finally:
        alone.auth = right
    assert error.value.code == 401


def test_with_the_password_ours_answer(alone):
    assert {entry["name"] for entry in alone.get("/persres/v1/residuals")} == {"rex", "mia"}
    assert alone.post("/persres/v1/refresh") == {"residuals": 2}


def test_images_are_made_and_refusals_come(alone):
    lag, plain = alone.image(REX, LAG), alone.image(REX)
    assert not near(lag, plain)
    status, answer = alone.refusal([False] * 7)
    assert status == 422 and "takes 6 values" in answer["detail"]
    images, _, _ = cells(alone, REX, ("[Persres] LAG", ["on", "off"]))
    assert same(images[0], lag) and same(images[1], plain)


def test_bad_values_in_the_settings_file_are_told_and_the_command_line_wins(alone):
    log = alone.log.read_text()
    assert "The setting persres_lag is 'perhaps'; allowed is 'accordion' or 'always' or 'never'. The default" in log
    # the setting persres_dir names a folder that holds both residuals, too, but a level further down
    assert "mine/" not in json.dumps(alone.get("/persres/v1/residuals"))
    assert alone.generate("a <persres:mine/rex>").info["extra_generation_params"]["Persres not applied"]
