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
from ..training.sizes import default_resolution
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

    @property
    def ready(self) -> bool:
        return all(file.is_file() for file in self.needs)

    def word(self, noun: str) -> list[str]:
        """The concepts' macro classes, GIVEN or NEAREST."""
        return [self.subject.nearest if noun == NEAREST else concept.macro_class for concept in self.subject.concepts]

    def pictures(self, method: Method) -> list[Asked]:
        out = []
        for index, prompt in self.subject.prompts.items():
            text = asked_text(prompt, self.word(method.noun), method.without_class)
            # that nothing asks for the concept is what the prompts without V* are for
            out += [Asked(index, i, text, quiet=prompt.category == WITHOUT) for i in range(self.sampling.images)]
        return out

    # -- what is asked, and whether it is there

    @property
    def asked(self) -> dict:
        """Everything that the residual and each picture depend on, as asked.json keeps it."""
        training, learning = self.training, None
        if training and not self.subject.is_pair:
            learning = {
                "base": self.base,
                "recipe": training.made_recipe().to_dict(),
                "seed": training.seed,
                "photos": training.photos,
                "class": self.word(training.noun)[0],
                "identifier": self.subject.identifiers[0],
            }
        methods = {}
        for method in self.methods:
            how = method.model_dump(include={"lag", "strength", "unconditional"})
            how |= {"base": self.base, "steps": self.sampling.steps, "guidance": self.sampling.guidance}
            how["identifiers"] = list(self.subject.identifiers)
            methods[method.name] = {"how": how, "pictures": {one.name: one.text for one in self.pictures(method)}}
        return json.loads(json.dumps({"training": learning, "methods": methods}))

    def agreed(self) -> dict:
        """What was asked of the piece before and now, together. PersresError where the two contradict one another."""
        there, now = self.folder.asked, self.asked
        if not _agree(there.get("training"), now["training"]) and there:
            raise PersresError(
                f"{self.folder.path} was trained otherwise ({_differing(there['training'], now['training'])}): "
                "give another folder with --out."
            )
        methods = dict(there.get("methods", {}))
        for name, wanted in now["methods"].items():
            if name in methods:
                for part in ("how", "pictures"):
                    if not _agree(methods[name][part], wanted[part]):
                        raise PersresError(
                            f"{self.folder.path / name} was drawn otherwise "
                            f"({_differing(methods[name][part], wanted[part])}): give another folder with --out."
                        )
                wanted = {**wanted, "pictures": methods[name]["pictures"] | wanted["pictures"]}
            methods[name] = wanted
        return {**now, "methods": methods}

    @property
    def done(self) -> bool:
        """Whether all that is asked is there. PersresError where something else is."""
        folder, agreed = self.folder, self.agreed()
        return bool(folder.facts) and folder.asked == agreed and not any(map(self.missing, self.methods))

    def missing(self, method: Method) -> list[Asked]:
        """The pictures that are not there yet."""
        there = self.folder.names(method.name)
        return [one for one in self.pictures(method) if one.name not in there]

    # -- doing it

    def do(self, sd: StableDiffusion, progress: Progress | None = None) -> None:
        """What is missing; the file piece.json comes last."""
        folder, concepts = self.folder, self.subject.concepts
        agreed = self.agreed()
        folder.begin(agreed)
        words = [identifier_of(sd.encode_text, number) for number in self.subject.identifiers]
        residuals: dict[str, Residual] = {}
        if self.subject.is_pair:
            residuals = {concept.name: Residual.load(file) for concept, file in zip(concepts, self.needs)}
        elif self.training:
            residuals = {concepts[0].name: self.learn(sd, words[0], progress)}
        drawing = Drawing(folder, sd, self.sampling, self.batch, masks=not self.subject.is_pair)
        for method in self.methods:
            shown = {}
            for (name, residual), word in zip(residuals.items(), self.word(method.noun)):
                # LAG looks for the word that the prompt has
                shown[name] = replace(residual, metadata=replace(residual.metadata, macro_class=word))
            tags = "".join(f"<persres:{name}:{method.strength}>" for name in shown)
            asked = [
                replace(one, text=tags + one.text if shown else with_identifiers(one.text, *words))
                for one in self.missing(method)
            ]
            drawing.fill(method, asked, shown.__getitem__ if shown else None)
        folder.finish(self.facts(residuals, drawing.facts()))

    def learn(self, sd: StableDiffusion, identifier: str, progress: Progress | None) -> Residual:
        """The concept's residual: learned, or gone on with, or read.

        The pictures are drawn with the file's numbers (fp16) whether the training was stopped or not.
        """
        folder, log = self.folder, self.folder.log
        if not folder.residual.exists():
            trainer = self.trainer(sd, identifier)
            if folder.state.exists():
                trainer.load_state(folder.state)
            log.add("training", at=trainer.done)
            since = time.monotonic()
            with trainer:
                while not trainer.finished:
                    loss = trainer.step()
                    if progress:
                        progress(trainer.done, trainer.recipe.steps, loss)
                    if trainer.done % SAVE_EVERY == 0 and not trainer.finished:
                        trainer.save_state(folder.state)
                        log.add("kept", at=trainer.done, seconds=round(time.monotonic() - since, 2))
                        since = time.monotonic()
            trainer.residual().save(folder.residual)
            log.add("trained", at=trainer.done, seconds=round(time.monotonic() - since, 2), notes=trainer.notes)
            folder.state.unlink(missing_ok=True)
        return Residual.load(folder.residual)

    def trainer(self, sd: StableDiffusion, identifier: str) -> Trainer:
        (concept,), training = self.subject.concepts, self.training
        recipe = training.made_recipe()
        return Trainer(
            sd,
            concept.load()[: training.photos],
            concept.name,
            self.word(training.noun)[0],
            recipe,
            resolution=default_resolution(sd.unet.params),
            seed=training.seed,
            identifier=identifier,
            class_photos=concept.load_class() if recipe.keeps_class else None,
        )

    def facts(self, residuals: dict[str, Residual], drawn: dict) -> dict:
        """What the piece took."""
        trained = self.folder.log.events("kept") + self.folder.log.events("trained")
        notes = [text for row in trained for text in row.get("notes", [])]
        return {
            "concepts": [concept.name for concept in self.subject.concepts],
            "train_seconds": round(sum(row["seconds"] for row in trained), 2),
            **drawn,
            "steps": max((residual.metadata.steps for residual in residuals.values()), default=0),
            "parameters": sum(residual.parameters_count() for residual in residuals.values()),
            "problems": list(dict.fromkeys(notes + drawn["problems"])),
        }


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


def _agree(a, b) -> bool:
    """Whether what both say is the same: a later version may say more."""
    if isinstance(a, dict) and isinstance(b, dict):
        return all(_agree(a[key], b[key]) for key in a.keys() & b.keys())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_agree, a, b))
    return a == b


def _differing(a, b) -> str:
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return "before there was none" if a is None else "now there is none"
    return ", ".join(key for key in a if key in b and not _agree(a[key], b[key]))
