"""What a worker does: a job is a folder of pictures to be made, alone and resumable."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch

from ..standalone.checkpoint import StableDiffusion, load
from .methods import Method
from .run_folder import locked
from .suite import Sampling


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """Everything that a worker needs to know. threads: torch's; None leaves them. batch: pictures at a time."""

    root: Path
    methods: tuple[Method, ...]
    sampling: Sampling
    checkpoint: Path
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    batch: int = 4

    @property
    @abstractmethod
    def name(self) -> str:
        """Unique in its run."""

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Its own."""

    @property
    def done(self) -> bool:
        return (self.folder / "piece.json").is_file()

    @property
    def ready(self) -> bool:
        """Whether what it needs of other jobs is there."""
        return True

    @abstractmethod
    def do(self, sd: StableDiffusion) -> None:
        """Do what is missing; the file piece.json comes last."""


@functools.lru_cache(maxsize=1)
def opened(checkpoint: Path, device: str | None, dtype: str | None) -> StableDiffusion:
    """The base model, read once by each process."""
    return load(checkpoint, device=device, dtype=getattr(torch, dtype) if dtype else None)


def work(job: Job) -> str:
    """Do a job, alone in its folder; its name. One that is done costs nothing."""
    with locked(job.folder):
        if not job.done:
            if job.threads:
                torch.set_num_threads(job.threads)
            job.do(opened(job.checkpoint, job.device, job.dtype))
    return job.name
