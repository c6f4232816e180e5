"""The Python client webuiapi from PyPI."""

import base64
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import LAG, REX, same
from PIL import Image


@pytest.fixture(scope="module")
def python(host):
    """A Python that has the client: of these tests, or of the WebUI."""
    for candidate in (sys.executable, host.python):
        if subprocess.run([candidate, "-c", "import webuiapi"], capture_output=True).returncode == 0:
            return candidate
    pytest.skip("webuiapi is missing: pip install --no-deps webuiapi into this Python or the WebUI's")


def call(python, host, args):
    script = Path(__file__).parent / "client.py"
    return subprocess.run([python, script, str(host.port), REX, json.dumps(args)], capture_output=True, text=True)


def test_the_client_draws_with_lag(host, python):
    done = call(python, host, LAG)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["image"]))).convert("RGB"))
    assert same(image, host.image(REX, LAG))
    assert "Persres LAG: on" in answer["infotext"] and "Persres hashes" in answer["infotext"]


def test_the_client_sees_a_refusal(host, python):
    done = call(python, host, [{"laag": True}])
    assert done.returncode != 0 and "422" in done.stderr and "does not know laag" in done.stderr
