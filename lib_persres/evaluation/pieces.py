"""A piece of a run: one concept and one training of it (or the base model), with the pictures of its methods.

Pieces know nothing of each other. Done again, a piece goes on where it was stopped: its training at the last state,
its pictures at the first that is not there.
"""

from __future__ import annotations

import functools
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..prompt import choose_identifier
from ..residual import Residual
from ..standalone.checkpoint import StableDiffusion, load
from ..standalone.generate import Generated, generate
from ..training.sizes import default_resolution
from ..training.trainer import Trainer
from .datasets.dataset import Concept, Prompt
from .methods import BASE, Method, Training
from .protocol import WITHOUT, asked_text, noise_seed, prompts_of
from .run_folder import Log, RunFolder, locked, picture_name, write_arrays, write_json, write_picture
from .scores.masked import to_images
from .suite import Sampling

SAVE_EVERY = 100
"""Steps after which a training's state is kept: what a killed worker loses at most."""


@dataclass(frozen=True)
class Piece:
    """Everything that a worker needs to know. threads: torch's; None leaves them. batch: pictures at a time."""

    root: Path
    concept: Concept
    training: Training | None
    methods: tuple[Method, ...]
    sampling: Sampling
    checkpoint: Path
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    batch: int = 4

    @property
    def name(self) -> str:
        return f"{self.concept.name}/{self.training.name if self.training else BASE}"

    @property
    def folder(self) -> Path:
        return RunFolder(self.root).piece(*self.name.split("/"))

    @property
    def done(self) -> bool:
        return (self.folder / "piece.json").is_file()


@functools.lru_cache(maxsize=1)
def opened(checkpoint: Path, device: str | None, dtype: str | None) -> StableDiffusion:
    """The base model, read once by each process."""
    return load(checkpoint, device=device, dtype=getattr(torch, dtype) if dtype else None)


def work(piece: Piece) -> str:
    """Do a piece, alone in its folder; its name. One that is done costs nothing."""
    with locked(piece.folder):
        if not piece.done:
            if piece.threads:
                torch.set_num_threads(piece.threads)
            _Work(piece, opened(piece.checkpoint, piece.device, piece.dtype)).do()
    return piece.name


class _Work:
    def __init__(self, piece: Piece, sd: StableDiffusion):
        self.piece, self.sd, self.folder = piece, sd, piece.folder
        self.log = Log(piece.folder / "log.jsonl")
        self.identifier = choose_identifier(sd.encode_text)
        self.side = default_resolution(sd.unet.params)

    def do(self) -> None:
        if self.sd.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.sd.device)
        residual = self.train(self.piece.training) if self.piece.training else None
        for method in self.piece.methods:
            self.sample(method, residual)
        write_json(self.folder / "piece.json", self.facts(residual))

    # -- training

    def train(self, training: Training) -> Residual:
        """Learn the concept, or go on, or read what was learned.

        The pictures are drawn with the file's numbers (fp16) whether the training was stopped or not.
        """
        file, state = self.folder / "residual.safetensors", self.folder / "training.pt"
        if not file.exists():
            trainer = self.trainer(training)
            if state.exists():
                trainer.load_state(state)
            self.log.add("training", at=trainer.done)
            since = time.monotonic()
            with trainer:
                while not trainer.finished:
                    trainer.step()
                    if trainer.done % SAVE_EVERY == 0 and not trainer.finished:
                        trainer.save_state(state)
                        self.log.add("kept", at=trainer.done, seconds=round(time.monotonic() - since, 2))
                        since = time.monotonic()
            trainer.residual().save(file)
            seconds = round(time.monotonic() - since, 2)
            self.log.add("trained", at=trainer.done, seconds=seconds, notes=trainer.notes)
            state.unlink(missing_ok=True)
        return Residual.load(file)

    def trainer(self, training: Training) -> Trainer:
        concept, recipe = self.piece.concept, training.made_recipe()
        return Trainer(
            self.sd,
            concept.load(),
            concept.name,
            concept.macro_class,
            recipe,
            resolution=self.side,
            seed=training.seed,
            identifier=self.identifier,
            class_photos=concept.load_class() if any(stage.prior for stage in recipe.stages) else None,
        )

    # -- sampling

    def sample(self, method: Method, residual: Residual | None) -> None:
        """Draw what is not there yet: DDIM with eta 0, a prompt at a time, each picture from its own noise."""
        folder, kept = self.folder / method.name, self.folder / method.name / "masks.npz"
        for index, prompt in prompts_of(self.piece.concept, self.piece.sampling.prompts).items():
            images = range(self.piece.sampling.images)
            missing = [i for i in images if not (folder / f"{picture_name(index, i)}.png").exists()]
            for start in range(0, len(missing), self.piece.batch):
                self._draw(method, residual, index, prompt, missing[start : start + self.piece.batch], folder)
        parts = sorted((folder / "masks").glob("*.npz"))
        if parts and not kept.exists():
            write_arrays(kept, {path.stem: np.load(path)["mask"] for path in parts})
        shutil.rmtree(folder / "masks", ignore_errors=True)

    def _draw(self, method: Method, residual, index: int, prompt: Prompt, images: list[int], folder: Path) -> None:
        started = time.monotonic()
        made = self.draw(method, residual, prompt, [noise_seed(index, i) for i in images])
        masks = _masks(made)
        for position, (image, picture) in enumerate(zip(images, to_images(made.images))):
            name = picture_name(index, image)
            if masks is not None:  # before the picture, whose presence says that all is there
                write_arrays(folder / "masks" / f"{name}.npz", {"mask": masks[position]})
            write_picture(folder / f"{name}.png", picture)
        # that nothing asks for the concept is what these prompts are for
        problems = [] if prompt.category == WITHOUT else made.problems
        seconds = round(time.monotonic() - started, 2)
        facts = {"method": method.name, "prompt": index, "images": images, "seconds": seconds}
        self.log.add("drawn", **facts, problems=problems)

    def draw(self, method: Method, residual: Residual | None, prompt: Prompt, seeds: list[int]) -> Generated:
        """A prompt's pictures.

        The base model reads the identifier for V* as the methods do, the same tokens without a residual, so that
        pictures from the same noise can be compared (as in `toybox_concepts.draw`).
        """
        training = self.piece.training
        concept = self.piece.concept
        text = asked_text(prompt, concept.macro_class, bool(training and training.without_class))
        if residual is None:
            text = re.sub(r"V\*", lambda _: self.identifier, text)
        else:
            text = f"<persres:{concept.name}:1.0>{text}"
        return generate(
            self.sd,
            text,
            None if residual is None else lambda _: residual,
            seeds=seeds,
            width=self.side,
            height=self.side,
            steps=self.piece.sampling.steps,
            guidance=self.piece.sampling.guidance,
            lag=method.lag,
        )

    # -- what it took

    def facts(self, residual: Residual | None) -> dict:
        drawn = self.log.events("drawn")
        trained = self.log.events("kept") + self.log.events("trained")
        told = [text for row in trained for text in row.get("notes", [])]
        told += [text for row in drawn for text in row["problems"]]
        return {
            "train_seconds": round(sum(row["seconds"] for row in trained), 2),
            "sample_seconds": round(sum(row["seconds"] for row in drawn), 2),
            "pictures": sum(len(row["images"]) for row in drawn),
            "peak_bytes": peak_bytes(self.sd.device),
            "steps": residual.metadata.steps if residual else 0,
            "parameters": residual.parameters_count() if residual else 0,
            "problems": list(dict.fromkeys(told)),
        }


def _masks(made: Generated) -> np.ndarray | None:
    """The first concept's mean masks at the latents' size, (n,h,w) in half precision; None without LAG."""
    if made.masks is None or not made.masks.masks:
        return None
    return made.masks.mean("masks")[:, 0].half().numpy()


def peak_bytes(device: torch.device) -> int | None:
    """On CUDA the most that was allocated; on a CPU the most that the process held. None where it is not told."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
