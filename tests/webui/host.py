"""A WebUI on this machine with a model of its own, and the requests that the tests make of it."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import standalone_models as models
import torch
from checkout import A1111, EXTENSIONS, HOST, INSTEAD, ITS_OWN, SETTINGS
from checkout import FLAGS as ITS_FLAGS
from companions import add_companions, save_checkpoint
from PIL import Image

from lib_persres.residual import Factors, Metadata, Residual

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ("--skip-prepare-environment --skip-torch-cuda-test --skip-version-check --api --no-hashing").split() + list(
    ITS_FLAGS
)
PATIENCE = 1800
"""Seconds for the start or one answer; it takes some on a machine that is busy with other things."""
TITLE = "Personalized Residuals"
PLAIN = {"steps": 3, "width": 64, "height": 64, "sampler_name": "Euler", "seed": 5, "cfg_scale": 6}


def make_data(folder: Path, extensions: dict[str, Path]) -> None:
    """A --data-dir with a tiny model, two residuals, their companions, and links to these extensions and to what lets
    the host know that model."""
    checkpoints = folder / "models" / "Stable-diffusion"
    make_extensions(folder, {"known": EXTENSIONS["known"], **extensions})
    # said, since reForge keeps what a request overrides where nothing was
    configure(folder, sd_model_checkpoint="tiny.safetensors")
    unet = models.tiny_unet()
    save_checkpoint(checkpoints / "tiny.safetensors", unet)
    make_residual(folder, "rex", unet, 1, "olis", "dog")
    make_residual(folder, "mia", unet, 2, "phol", "cat")
    add_companions(folder)


def configure(folder: Path, **options) -> None:
    """The WebUI's settings at its start."""
    path = folder / "config.json"
    before = json.loads(path.read_text()) if path.exists() else SETTINGS
    path.write_text(json.dumps({**before, **options}))


def make_extensions(folder: Path, extensions: dict[str, Path]) -> None:
    (folder / "extensions").mkdir(parents=True)
    for name, path in extensions.items():
        (folder / "extensions" / name).symlink_to(path, target_is_directory=True)


def make_residual(
    folder: Path, name: str, unet, seed: int, identifier: str, macro_class: str, targets: str = "proj_out"
) -> Path:
    generator = torch.Generator().manual_seed(seed)
    metadata = Metadata(concept=f"{name}'s own name", identifier=identifier, macro_class=macro_class)
    residual = Residual.initialise(unet, "4", generator, metadata, targets)
    for target, factors in residual.factors.items():
        up = torch.randn(factors.up.shape, generator=generator)
        residual.factors[target] = Factors(factors.down, up * 0.5)
    path = folder / "models" / "persres" / f"{name}.safetensors"
    residual.save(path)
    return path


class Host:
    """A running WebUI."""

    def __init__(self, webui: Path, data: Path, *flags: str, auth: str | None = None):
        """auth: "user:password" for --api-auth."""
        python = os.environ.get("PERSRES_WEBUI_PYTHON") or webui / "venv" / "bin" / "python"
        self.python = str(python)
        self.data = data
        self.auth = auth
        if auth:
            flags = *flags, "--api-auth", auth
        self.started = 0
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = data / "log.txt"
        quiet = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [str(python), "launch.py", *self._place(), *FLAGS, *flags],
                cwd=webui,
                env={**os.environ, **quiet},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _place(self) -> list[str]:
        """Where it is; its embeddings are in the same place on every host."""
        embeddings = str(self.data / "embeddings")
        return ["--data-dir", str(self.data), "--port", str(self.port), "--embeddings-dir", embeddings]

    def wait(self, seconds: float = PATIENCE) -> Host:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            # a request that comes before the WebUI has added its routes makes it fail to start
            if self.log.read_text().count("Startup time:") > self.started:
                self.started += 1
                self._await_port(deadline)
                self.image("")  # the model loads on a thread of its own
                return self
            time.sleep(1)
        self.stop()
        raise RuntimeError("The WebUI did not start:\n" + self.log.read_text()[-3000:])

    def _await_port(self, deadline: float) -> None:
        """With --nowebui it says that it has started and only then listens."""
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                return
            time.sleep(1)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def request(self, path: str, body=None, method: str = "GET"):
        if HOST == "backend" and body and "infotext" in body:
            pytest.skip("This host's API fails at any infotext.")
        for name in INSTEAD.keys() & (body or {}):
            body = {**body, name: INSTEAD[name].get(body[name], body[name])}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"}, method=method
        )
        if self.auth:
            request.add_header("Authorization", "Basic " + base64.b64encode(self.auth.encode()).decode())
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.loads(answer.read() or b"null")

    def get(self, path: str):
        return self.request(path)

    def post(self, path: str, body=None):
        return self.request(path, body if body is not None else {}, "POST")

    @contextlib.contextmanager
    def options(self, **options):
        """The WebUI's settings, put back afterwards: `override_settings` may leak into later requests."""
        before = self.get("/sdapi/v1/options")
        if absent := [name for name in options if name not in before]:
            pytest.skip(f"This host has no setting {', '.join(absent)}.")
        self.post("/sdapi/v1/options", options)
        try:
            yield
        finally:
            self.post("/sdapi/v1/options", {name: before[name] for name in options})

    @contextlib.contextmanager
    def split(self, split: bool = True):
        """Conds and unconds in calls of their own: a setting, or what a host does for lack of memory."""
        if A1111:
            with self.options(batch_cond_uncond=not split):
                yield
            return
        self.post(f"/probe/split/{int(split)}")
        try:
            yield
        finally:
            self.post("/probe/split/0")

    def restore(self) -> None:
        """No generation, no trainings, and no residuals but the first two."""
        self.post("/sdapi/v1/interrupt")
        self.end_trainings()
        folder = self.data / "models" / "persres"
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            elif path.name not in ("rex.safetensors", "mia.safetensors"):
                path.unlink()
        self.post("/persres/v1/refresh")

    def end_trainings(self) -> None:
        """Cancel those that are at work or wait, and forget all."""
        live = ("queued", "running")
        for job in self.get("/persres/v1/train"):
            if job["state"] in live:
                with contextlib.suppress(urllib.error.HTTPError):  # it ended by itself meanwhile
                    self.post(f"/persres/v1/train/{job['id']}/cancel")
        deadline = time.monotonic() + PATIENCE
        while any(job["state"] in live for job in self.get("/persres/v1/train")):
            assert time.monotonic() < deadline, self.get("/persres/v1/train")
            time.sleep(0.2)
        for job in self.get("/persres/v1/train"):
            self.request(f"/persres/v1/train/{job['id']}", method="DELETE")

    def refusal(self, args, **parameters) -> tuple[int, dict]:
        """The status and body of the error that these arguments of the script come to."""
        try:
            self.post("/sdapi/v1/txt2img", body_of("a <persres:rex> V* dog", args, parameters))
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())
        raise AssertionError("the WebUI accepted it")

    def generate(self, prompt, args=None, **parameters) -> Result:
        try:
            return Result(self.post("/sdapi/v1/txt2img", body_of(prompt, args, parameters)))
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()) from error

    def image(self, prompt, args=None, **parameters) -> np.ndarray:
        return self.generate(prompt, args, **parameters).images[0]


def body_of(prompt, args, parameters) -> dict:
    body = {**PLAIN, **ITS_OWN, "prompt": prompt, **parameters}
    if args is not None:
        body["alwayson_scripts"] = {TITLE: {"args": args}}
    return body


class Result:
    """images: (h, w, 3) arrays. info: the API's. infotexts: of each image."""

    def __init__(self, answer: dict):
        pictures = [Image.open(io.BytesIO(base64.b64decode(text))) for text in answer["images"]]
        self.images = [np.asarray(picture.convert("RGB")) for picture in pictures]
        self.info = json.loads(answer["info"])
        self.infotexts = self.info["infotexts"]


def copy_of(path: Path, to: Path) -> Path:
    to.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(path, to))
