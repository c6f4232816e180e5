"""Trainings of the WebUI with a real small model in its place."""

import contextlib
import io
import threading
import time

import numpy as np
import torch
from fifo_lock import FIFOLock
from PIL import Image

from lib_persres.residual import Residual
from lib_persres.residual_folder import ResidualFolder
from lib_persres.training.images import load_images
from lib_persres.training.recipes import RECIPES
from lib_persres.training.trainer import Trainer
from lib_persres.webui.training.jobs import Jobs
from lib_persres.webui.training.request import Request
from lib_persres.webui.training.turn import Turn

SMALL = {"macro_class": "dog", "recipe": "paper", "steps": 8, "batch": 2, "rank": "2", "resolution": 16, "crops": 1}


def png(seed: int, side=40) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


IMAGES = [("a.png", png(1)), ("b.png", png(2))]


class Bench:
    """Jobs on a real model. gate: a training makes a step each time it is released; None: it runs freely."""

    def __init__(self, sd, folder, gated=False, every=2):
        self.sd, self.folder = sd, folder
        self.residuals = ResidualFolder(lambda: folder / "persres")
        self.lock = FIFOLock()
        self.gives_way, self.again_as = True, None
        self.gate = threading.Semaphore(0) if gated else None
        self.stopping, self.fail_at, self.told = False, None, []
        self.jobs = Jobs(folder / "jobs", self.residuals, self.turn, self.lend, lambda: every, self.check)

    def turn(self):
        return Turn(self.lock, gives_way=lambda: self.gives_way)

    def check(self, request):
        request.refuse_unfit(self.sd.unet, self.sd.side)

    @contextlib.contextmanager
    def lend(self, title, turn):
        assert turn.held and self.lock._lock.locked()
        yield self.Loan(self, turn)

    class Loan:
        """again_as: the host that is there after the next giving way; an error: what is raised then."""

        def __init__(self, bench, turn):
            self.bench, self.turn, self.host, self.checkpoint = bench, turn, bench.sd, "tiny.safetensors"

        def progress(self, done, total, text):
            if self.bench.fail_at == done:
                raise RuntimeError("broken by the test\nand more")
            self.bench.told.append(text)
            if self.bench.gate:
                self.bench.gate.acquire()

        def interrupted(self):
            return self.bench.stopping

        def wanted(self):
            return self.turn.wanted()

        def give_way(self, leave):
            if not self.turn.give_way(leave):
                return False
            before, other = self.host, self.bench.again_as
            if isinstance(other, Exception):
                raise other
            self.host = other or before
            return self.host is before

        def memory(self):
            return 5

    def submit(self, concept="rex", images=IMAGES, class_images=(), **changes):
        return self.jobs.submit(Request.from_dict({"concept": concept, **SMALL, **changes}), images, class_images)

    def wait(self, identity, *states, seconds=120):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            status = self.jobs.get(identity)
            if status["state"] in (states or ("finished", "stopped", "cancelled", "failed", "interrupted")):
                return status
            time.sleep(0.02)
        raise AssertionError(f"still {status}")

    def wait_done(self, identity, done):
        deadline = time.monotonic() + 120
        while self.jobs.get(identity)["done"] < done:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def again(self, **options):
        """What another process finds in the same folders."""
        return Bench(self.sd, self.folder, **options)

    def stop_after_two(self):
        """A training that is stopped after two of its steps; what comes next runs freely."""
        identity = self.submit()
        self.gate.release()
        self.wait_done(identity, 2)
        self.jobs.stop(identity)
        self.gate.release()
        self.wait(identity)
        self.gate = None
        return identity


def direct(sd, folder, **changes):
    """The same training by hand, as the command line does it."""
    paths = []
    folder.mkdir()
    for name, data in IMAGES:
        paths.append(folder / name)
        paths[-1].write_bytes(data)
    recipe = RECIPES["paper"].changed(steps=8, batch=2, rank="2", crops=1)
    trainer = Trainer(sd, load_images(paths), "rex", "dog", recipe, resolution=16, **changes)
    with trainer:
        while not trainer.finished:
            trainer.step()
    return trainer.residual()


def same(a: Residual, b: Residual) -> bool:
    return all(
        torch.equal(part, other)
        for name in a.factors
        for part, other in zip(vars(a.factors[name]).values(), vars(b.factors[name]).values())
    )


def saved(residual, folder):
    residual.save(folder / "other.safetensors")
    return Residual.load(folder / "other.safetensors")
