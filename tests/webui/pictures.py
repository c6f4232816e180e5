"""Requests for pictures, their refusals, and how pictures compare."""

import json
import urllib.error

import numpy as np
from host import PLAIN, TITLE

REX = "a photo of a V* dog <persres:rex>"
LAG = [{"lag": True}]
HIRES = {"enable_hr": True, "hr_upscaler": "Latent", "denoising_strength": 0.6}
PROBLEMS = "Persres problems"


def same(a, b) -> bool:
    return np.array_equal(a, b)


def near(a, b, levels: int = 2) -> bool:
    """Equal but for rounding: so many grey levels at most."""
    return a.shape == b.shape and np.abs(a.astype(int) - b.astype(int)).max() <= levels


def told(result) -> list[str]:
    return result.info["extra_generation_params"].get(PROBLEMS, [])


def refused(host, body: dict, path="/sdapi/v1/txt2img") -> tuple[int, str]:
    try:
        host.post(path, body)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["detail"]
    raise AssertionError("the WebUI accepted it")


def script(entry, name=TITLE) -> dict:
    return {**PLAIN, "prompt": REX, "alwayson_scripts": {name: entry}}
