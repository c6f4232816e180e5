"""A piece of a run: one concept and one training of it (or the base model), with the pictures of its methods.

Pieces know nothing of each other. Done again, a piece goes on where it was stopped: its training at the last state,
its pictures at the first that is not there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from ..residual import Residual
from ..standalone.checkpoint import StableDiffusion
from ..training.trainer import Trainer
from .datasets.dataset import Concept
from .drawing import Asked, Drawing, with_identifiers
from .jobs import Job
from .methods import BASE, NEAREST, Method, Training
from .protocol import WITHOUT, asked_text, identifier_of, prompts_of
from .run_folder import Log, RunFolder, write_json

SAVE_EVERY = 100
"""Steps after which a training's state is kept: what a killed worker loses at most."""


@dataclass(frozen=True, kw_only=True)
class Piece(Job):
    """nearest: the concept's noun where a method asks for the nearest. identifier: its number (see `protocol`)."""

    concept: Concept
    training: Training | None
    nearest: str | None = None
    identifier: int = 0

    @property
    def name(self) -> str:
        return f"{self.concept.name}/{self.training.name if self.training else BASE}"

    @property
    def folder(self) -> Path:
        return RunFolder(self.root).piece(*self.name.split("/"))

    def macro_class(self, noun: str) -> str:
        """The word for GIVEN or NEAREST."""
        return self.nearest if noun == NEAREST else self.concept.macro_class

    def do(self, sd: StableDiffusion) -> None:
        _Work(self, sd).do()


class _Work:
    def __init__(self, piece: Piece, sd: StableDiffusion):
        self.piece, self.sd, self.folder = piece, sd, piece.folder
        self.log = Log(piece.folder / "log.jsonl")
        self.drawing = Drawing(piece, sd, self.log)
        self.identifier = identifier_of(sd.encode_text, piece.identifier)

    def do(self) -> None:
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
            concept.load()[: training.photos],
            concept.name,
            self.piece.macro_class(training.noun),
            recipe,
            resolution=self.drawing.side,
            seed=training.seed,
            identifier=self.identifier,
            class_photos=concept.load_class() if recipe.keeps_class else None,
        )

    # -- sampling

    def sample(self, method: Method, residual: Residual | None) -> None:
        concept, training = self.piece.concept, self.piece.training
        word = self.piece.macro_class(method.noun)
        if residual is not None and residual.metadata.macro_class != word:
            # LAG looks for the word that the prompt has
            residual = replace(residual, metadata=replace(residual.metadata, macro_class=word))
        asked = []
        for index, prompt in prompts_of(concept, self.piece.sampling.prompts).items():
            text = asked_text(prompt, word, bool(training and training.without_class))
            tag = f"<persres:{concept.name}:{method.strength}>"
            text = tag + text if residual else with_identifiers(text, self.identifier)
            # that nothing asks for the concept is what the prompts without V* are for
            quiet = prompt.category == WITHOUT
            asked += [Asked(index, image, text, quiet) for image in range(self.piece.sampling.images)]
        find = None if residual is None else lambda _: residual
        self.drawing.fill(method, self.folder / method.name, asked, find, masks=True)

    # -- what it took

    def facts(self, residual: Residual | None) -> dict:
        trained = self.log.events("kept") + self.log.events("trained")
        notes = [text for row in trained for text in row.get("notes", [])]
        drawn = self.drawing.facts()
        return {
            "train_seconds": round(sum(row["seconds"] for row in trained), 2),
            **drawn,
            "steps": residual.metadata.steps if residual else 0,
            "parameters": residual.parameters_count() if residual else 0,
            "problems": list(dict.fromkeys(notes + drawn["problems"])),
        }
