"""A piece of a pair: the pictures of two concepts by methods of one training, from the residuals of both's pieces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..residual import Residual
from ..standalone.checkpoint import StableDiffusion
from .datasets.dataset import Pair, Prompt
from .drawing import Asked, Drawing, with_identifiers
from .jobs import Job
from .methods import BASE
from .protocol import identifier_of
from .run_folder import Log, RunFolder, write_json


@dataclass(frozen=True, kw_only=True)
class PairPiece(Job):
    """identifiers: the numbers of the two concepts' (see `protocol`)."""

    pair: Pair
    training: str
    identifiers: tuple[int, int]

    @property
    def name(self) -> str:
        return f"{self.pair.name}/{self.training}"

    @property
    def folder(self) -> Path:
        return RunFolder(self.root).pair(self.pair.name) / self.training

    @property
    def needs(self) -> list[Path]:
        """What the concepts' own pieces leave: there before this can be done."""
        if self.training == BASE:
            return []
        run = RunFolder(self.root)
        return [run.piece(concept.name, self.training) / "residual.safetensors" for concept in self.pair.concepts]

    @property
    def ready(self) -> bool:
        return all(file.is_file() for file in self.needs)

    def do(self, sd: StableDiffusion) -> None:
        log = Log(self.folder / "log.jsonl")
        drawing = Drawing(self, sd, log)
        names = [concept.name for concept in self.pair.concepts]
        residuals = dict(zip(names, map(Residual.load, self.needs)))
        words = [identifier_of(sd.encode_text, number) for number in self.identifiers]
        for method in self.methods:
            tags = "".join(f"<persres:{name}:{method.strength}>" for name in residuals)
            asked = []
            for index, prompt in enumerate(self.pair.prompts):
                text = self.asked_text(prompt)
                text = tags + text if residuals else with_identifiers(text, *words)
                asked += [Asked(index, image, text) for image in range(self.sampling.images)]
            find = residuals.__getitem__ if residuals else None
            drawing.fill(method, self.folder / method.name, asked, find, masks=False)
        write_json(self.folder / "piece.json", drawing.facts())

    def asked_text(self, prompt: Prompt) -> str:
        """ "a photo of a V1* ball and a V2* box"."""
        return prompt.with_identifier(*(concept.macro_class for concept in self.pair.concepts))
