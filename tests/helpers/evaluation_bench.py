"""A small real evaluation: a tiny checkpoint on disk, a folder of photos, a suite of three methods."""

import json
from pathlib import Path

import longhand
import numpy as np
import torch
from PIL import Image
from standalone_models import tiny_text, tiny_unet, tiny_vae

from lib_persres.evaluation.planning import Source
from lib_persres.evaluation.run import perform
from lib_persres.evaluation.run_folder import RunFolder
from lib_persres.evaluation.scoring import Scorer
from lib_persres.evaluation.suite import Suite
from lib_persres.standalone.checkpoint import save_sd1

PROMPTS = "# identity\na photo of a {}\n# change background\na {} on the beach\n"
TINY = {"batch": 1, "rank": "2", "crops": 0, "learning_rate": 1e-3}


class Means:
    """Embeds a picture as its mean colours, a text as its letters: enough to see whether scores are the same."""

    digest = "means"

    def images(self, images):
        return torch.tensor(np.array([np.asarray(i).mean((0, 1)) for i in images]), dtype=torch.float32)

    def texts(self, texts):
        return torch.tensor([[float(len(t)), t.count("a"), t.count("o")] for t in texts])


def tiny_suite(steps=4, images=2) -> dict:
    training = {"name": "residual", "recipe": "paper", "changes": {"steps": steps, **TINY}}
    return {
        "name": "tiny",
        "methods": [
            {"name": "base", "training": None},
            {"name": "residual", "training": training},
            {"name": "residual+lag", "training": "residual", "lag": True},
        ],
        "orderings": [{"higher": "residual", "lower": "base", "score": "image", "source": "Table 1"}],
        "sampling": {"steps": 2, "guidance": 3, "images": images},
    }


class Evaluation:
    """One for a module: `perform` runs it into a folder."""

    def __init__(self, folder: Path):
        self.checkpoint = folder / "model" / "tiny.safetensors"
        unet = longhand.random_(tiny_unet(image_size=2), 0)  # 16 pixels: 64 latent ones
        save_sd1(self.checkpoint, unet, tiny_vae(), tiny_text(), scale_factor=0.5, dtype=torch.float32)
        self.photos, self.prompts = folder / "rex", folder / "prompts.txt"
        self.photos.mkdir()
        rng = np.random.default_rng(0)
        for index in range(2):
            pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.photos / f"{index}.png")
        self.prompts.write_text(PROMPTS)

    @property
    def source(self) -> Source:
        return Source("folder", self.photos, "dog", self.prompts)

    def perform(self, out: Path, execute, raw: dict | None = None, **options) -> RunFolder:
        run = RunFolder(out)
        suite = Suite.from_dict(raw or tiny_suite())
        options = {"device": "cpu", "batch": 1, "scorer": Scorer(clip=Means()), **options}
        perform(run, suite, self.source, self.checkpoint, execute, **options)
        return run


def files(run: RunFolder) -> dict[str, bytes]:
    """What a run made, without its logs and times."""
    kept = (".png", ".npz", ".jsonl")
    found = (path for path in run.root.rglob("*") if path.suffix in kept and path.name != "log.jsonl")
    return {path.relative_to(run.root).as_posix(): path.read_bytes() for path in found}


def events(run: RunFolder, piece: str) -> list[dict]:
    file = run.root / "pieces" / piece / "log.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def drawn(run: RunFolder, piece: str) -> list[tuple]:
    """(method, prompt, image) of each picture in the order of drawing; one that was drawn twice comes twice."""
    rows = [row for row in events(run, piece) if row["event"] == "drawn"]
    return [(row["method"], *picture) for row in rows for picture in row["pictures"]]
