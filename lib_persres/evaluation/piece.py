"""A piece of a run: one subject and one training (or the base model), with the pictures of its methods.

A concept's piece learns it; a pair's takes what the pieces of its two concepts learned. Done again, a piece goes on
where it was stopped: its training at the last state, its pictures at the first that is not there.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..errors import PersresError
from ..residual import Residual
from ..standalone.checkpoint import StableDiffusion, load
from ..training.trainer import Trainer
from .datasets.dataset import WITHOUT
from .drawing import Asked, Drawing, with_identifiers
from .planning import Plan, Subject
from .protocol import asked_text, identifier_of
from .run_folder import PieceFolder, RunFolder, locked
from .suite import NEAREST, Method, Sampling, Training

SAVE_EVERY = 100
"""Steps after which a training's state is kept: what a killed worker loses at most."""

Progress = Callable[[int, int, float], None]
"""(steps done, of how many, loss)"""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """All that a worker needs to know. base: the checkpoint's hash. threads: torch's; None leaves them.

    batch: pictures at a time.
    """

    root: Path
    subject: Subject
    methods: tuple[Method, ...]
    sampling: Sampling
    checkpoint: Path
    base: str = ""
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    batch: int = 4

    @property
    def name(self) -> str:
        """Unique in its run."""
        return f"{self.subject.name}/{self.methods[0].piece}"

    @property
    def folder(self) -> PieceFolder:
        return RunFolder(self.root).piece(self.subject.name, self.methods[0].piece)

    @property
    def training(self) -> Training | None:
        return self.methods[0].training

    @property
    def needs(self) -> list[Path]:
        """The residuals that other pieces learn: there before this can be done."""
        if self.training is None or not self.subject.is_pair:
            return []
        run = RunFolder(self.root)
        return [run.piece(concept.name, self.training.name).residual for concept in self.subject.concepts]

    def words(self, noun: str) -> list[str]:
        """The concepts' macro classes, GIVEN or NEAREST."""
        if noun == NEAREST:
            assert self.subject.nearest is not None  # chosen before any piece
            return [self.subject.nearest]  # no pair asks for it
        return [concept.macro_class for concept in self.subject.concepts]

    def pictures(self, method: Method) -> list[Asked]:
        out = []
        for index, prompt in self.subject.prompts.items():
            text = asked_text(prompt, self.words(method.noun), method.without_class)
            # that nothing asks for the concept is what the prompts without V* are for
            out += [Asked(index, i, text, quiet=prompt.category == WITHOUT) for i in range(self.sampling.images)]
        return out

    def missing(self, method: Method) -> list[Asked]:
        """The pictures that are not there yet."""
        there = self.folder.names(method.name)
        return [one for one in self.pictures(method) if one.name not in there]

    # -- what is asked, and whether it is there

    def asked(self) -> dict:
        """Everything that the residual and each picture depend on, together with what was asked of the piece before.

        PersresError where the two contradict one another.
        """
        asked: dict = {}
        if self.training and not self.subject.is_pair:
            asked["training"] = {
                "base": self.base,
                "recipe": self.training.made_recipe().to_dict(),
                "seed": self.training.seed,
                "photos": self.training.photos,
                "class": self.words(self.training.noun)[0],
                "identifier": self.subject.identifiers[0],
            }
        for method in self.methods:
            how = method.model_dump(include={"lag", "strength", "unconditional"})
            how |= {"base": self.base, "steps": self.sampling.steps, "guidance": self.sampling.guidance}
            asked[f"{method.name}/how"] = how | {"identifiers": self.subject.identifiers}
            asked |= {f"{method.name}/{one.name}": one.text for one in self.pictures(method)}
        asked, before = json.loads(json.dumps(asked)), self.folder.asked
        for key, value in asked.items():
            if key in before and not _agree(before[key], value):
                named = ["its prompt"]
                if isinstance(value, dict):
                    named = [name for name in value if not _agree(before[key].get(name), value[name])]
                raise PersresError(
                    f"{self.folder.path} holds another {key} ({', '.join(named)}): give another folder with --out."
                )
        return before | asked

    @property
    def done(self) -> bool:
        """Whether all that is asked is there. PersresError where something else is."""
        asked = self.asked()
        return bool(self.folder.facts) and self.folder.asked == asked and not any(map(self.missing, self.methods))

    # -- doing it

    def do(self, sd: StableDiffusion, progress: Progress | None = None) -> None:
        """What is missing; the file piece.json comes last."""
        folder, concepts = self.folder, self.subject.concepts
        folder.begin(self.asked())
        identifiers = [identifier_of(sd.encode_text, number) for number in self.subject.identifiers]
        residuals: dict[str, Residual] = {}
        if self.subject.is_pair:
            if not all(file.is_file() for file in self.needs):
                raise PersresError("the trainings of its concepts are not done.")
            residuals = {concept.name: Residual.load(file) for concept, file in zip(concepts, self.needs)}
        elif training := self.training:
            residuals = {concepts[0].name: self.learn(sd, training, identifiers[0], progress)}
        drawing = Drawing(folder, sd, self.sampling, self.batch, masks=not self.subject.is_pair)
        for method in self.methods:
            shown = {}
            for (name, residual), word in zip(residuals.items(), self.words(method.noun)):
                # LAG looks for the word that the prompt has
                shown[name] = replace(residual, metadata=replace(residual.metadata, macro_class=word))
            tags = "".join(f"<persres:{name}:{method.strength}>" for name in shown)
            asked = [
                replace(one, text=tags + one.text if shown else with_identifiers(one.text, *identifiers))
                for one in self.missing(method)
            ]
            drawing.fill(method, asked, shown.__getitem__ if shown else None)
        trained = folder.log.events("kept") + folder.log.events("trained")
        drawn, notes = drawing.facts(), [text for row in trained for text in row.get("notes", [])]
        folder.finish(
            {
                "concepts": [concept.name for concept in concepts],
                "train_seconds": round(sum(row["seconds"] for row in trained), 2),
                **drawn,
                "steps": max((residual.metadata.steps for residual in residuals.values()), default=0),
                "parameters": sum(residual.parameters_count() for residual in residuals.values()),
                "problems": list(dict.fromkeys(notes + drawn["problems"])),
            }
        )

    def learn(self, sd: StableDiffusion, training: Training, identifier: str, progress: Progress | None) -> Residual:
        """The concept's residual: learned, or gone on with, or read.

        The pictures are drawn with the file's numbers (fp16) whether the training was stopped or not.
        """
        folder, log, (concept,) = self.folder, self.folder.log, self.subject.concepts
        if not folder.residual.exists():
            recipe = training.made_recipe()
            trainer = Trainer(
                sd,
                concept.load()[: training.photos],
                concept.name,
                self.words(training.noun)[0],
                recipe,
                resolution=sd.side,
                seed=training.seed,
                identifier=identifier,
                class_photos=concept.load_class() if recipe.keeps_class else None,
            )
            if folder.state.exists():
                trainer.load_state(folder.state)
            log.add("training", at=trainer.done)
            since = time.monotonic()
            with trainer:
                while not trainer.finished:
                    loss = trainer.step()
                    if progress:
                        progress(trainer.done, recipe.steps, loss)
                    if trainer.done % SAVE_EVERY == 0 and not trainer.finished:
                        trainer.save_state(folder.state)
                        log.add("kept", at=trainer.done, seconds=round(time.monotonic() - since, 2))
                        since = time.monotonic()
            trainer.residual().save(folder.residual)
            log.add("trained", at=trainer.done, seconds=round(time.monotonic() - since, 2), notes=trainer.notes)
            folder.state.unlink(missing_ok=True)
        return Residual.load(folder.residual)


def pieces_of(plan: Plan, **options) -> list[Piece]:
    """A piece for each subject and training. options: of `Piece`."""
    out = []
    for subject, methods in plan:
        for name in dict.fromkeys(method.piece for method in methods):
            own = tuple(method for method in methods if method.piece == name)
            out.append(Piece(subject=subject, methods=own, **options))
    return out


@functools.lru_cache(maxsize=1)
def opened(checkpoint: Path, device: str | None, dtype: str | None) -> StableDiffusion:
    """The base model, read once by each process."""
    return load(checkpoint, device=device, dtype=getattr(torch, dtype) if dtype else None)


def work(piece: Piece, progress: Progress | None = None) -> None:
    """Do a piece, alone in its folder. One that is done costs nothing."""
    with locked(piece.folder.path):
        if not piece.done:
            if piece.threads:
                torch.set_num_threads(piece.threads)
            piece.do(opened(piece.checkpoint, piece.device, piece.dtype), progress)


def _agree(before, now) -> bool:
    """Whether what both say is the same: a later version may say more."""
    if isinstance(before, dict) and isinstance(now, dict):
        return all(_agree(before[key], now[key]) for key in before.keys() & now.keys())
    if isinstance(before, list) and isinstance(now, list):
        return len(before) == len(now) and all(map(_agree, before, now))
    return before == now
