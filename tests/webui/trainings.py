"""Trainings by the API, and what they leave."""

import base64
import json
import time
import urllib.error

import torch
from pictures import same

SETTINGS = {"macro_class": "dog", "recipe": "paper", "steps": 20, "batch": 2, "rank": "4", "resolution": 64, "crops": 1}
ROUTE = "/persres/v1/train"


def submit(host, photos, concept, **changes) -> str:
    images = [{"name": path.name, "data": base64.b64encode(path.read_bytes()).decode()} for path in photos]
    return host.post(ROUTE, {"concept": concept, "images": images, **SETTINGS, **changes})["id"]


def wait(host, identity, *states, done=None) -> dict:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        status = host.get(f"{ROUTE}/{identity}")
        if done is not None and status["done"] >= done:
            return status
        if status["state"] in (states or ("finished", "stopped", "cancelled", "failed", "interrupted")):
            return status
        time.sleep(0.1)
    raise AssertionError(f"still {status}")


def refused_training(host, body) -> tuple[int, str]:
    try:
        host.post(ROUTE, body)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["detail"]
    raise AssertionError("it was accepted")


def numbers(residual) -> torch.Tensor:
    return torch.cat([part.flatten() for f in residual.factors.values() for part in (f.down, f.up)])


def assert_as_before(host, before, image):
    # at once: the WebUI seeds Python's random numbers anew with each picture
    numbers = host.get("/probe/state").pop("random")
    assert numbers == before["random"]
    assert same(host.image("a dog"), image)
    assert {**host.get("/probe/state"), "random": numbers} == before
