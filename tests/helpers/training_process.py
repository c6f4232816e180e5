"""Works off the queue in a folder until all of it is over, or until its process is killed.

Makes the training "killed" if there is none, and resumes what was interrupted. Tells each step, and how it ended.
"""

import contextlib
import io
import threading
import time
from pathlib import Path

import longhand
import numpy as np
import torch
from PIL import Image
from standalone_models import tiny_text, tiny_vae

from lib_persres.residual_folder import ResidualFolder
from lib_persres.standalone.checkpoint import StableDiffusion, alphas_cumprod
from lib_persres.webui.training.jobs import Jobs
from lib_persres.webui.training.request import Request
from lib_persres.webui.training.turn import Turn


def main(folder: Path, steps: int, tell):
    torch.set_num_threads(1)
    (folder / "tiny").write_bytes(b"read for its hash")
    schedule = alphas_cumprod(0.00085, 0.012, 1000)
    parts = (longhand.make_unet(), tiny_vae(), {"": tiny_text()}, 0.5, schedule)
    sd = StableDiffusion(*parts, torch.device("cpu"), torch.float32, folder / "tiny")

    class Loan:
        host, checkpoint = sd, "tiny"

        def progress(self, done, total, text):
            tell(done)

        def interrupted(self):
            return False

        def wanted(self):
            return False

        def memory(self):
            return None

    lock = threading.Lock()
    residuals = ResidualFolder(lambda: folder / "persres")
    jobs = Jobs(
        folder / "jobs", residuals, lambda: Turn(lock), lambda title, turn: contextlib.nullcontext(Loan()), lambda: 1
    )
    jobs.start()
    if not jobs.list():
        pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        values = {"steps": steps, "batch": 2, "rank": "2", "resolution": 16, "crops": 1, "preview_every": 5}
        request = Request("killed", "dog", "paper", **values)
        jobs.submit(request, [("a.png", buffer.getvalue())])
    for status in jobs.list():
        if status["state"] == "interrupted":
            jobs.resume(status["id"])
    while any(status["state"] in ("queued", "running") for status in jobs.list()):
        # also what a user does, so that a kill may fall into it
        for status in jobs.list():
            with contextlib.suppress(ValueError):
                jobs.save_now(status["id"])
        time.sleep(0.05)
    tell((jobs.list()[0]["state"], jobs.list()[0]["message"]))
