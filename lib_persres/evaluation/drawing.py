"""A method's pictures drawn into a folder, some at a time, each from its own noise; and what that took."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..residual import Residual
from ..standalone.checkpoint import StableDiffusion
from ..standalone.generate_each import Generated, generate_each
from ..training.sizes import default_resolution
from .jobs import Job
from .methods import Method
from .protocol import noise_seed
from .run_folder import Log, picture_name, write_arrays, write_picture
from .scores.masked import to_images

Find = Callable[[str], Residual]


@dataclass(frozen=True)
class Asked:
    """A picture that is asked for. quiet: what its prompt lacks is meant to be lacking."""

    prompt: int
    image: int
    text: str
    quiet: bool = False

    @property
    def name(self) -> str:
        return picture_name(self.prompt, self.image)


def with_identifiers(text: str, *identifiers: str) -> str:
    """The prompt as the base model reads it: the tokens that V* (V1*, V2*) become, without a residual.

    So pictures from the same noise can be compared (as in `toybox_concepts.draw`).
    """
    return re.sub(r"V(\d?)\*", lambda found: identifiers[int(found[1] or 1) - 1], text)


class Drawing:
    def __init__(self, job: Job, sd: StableDiffusion, log: Log):
        self.job, self.sd, self.log = job, sd, log
        self.side = default_resolution(sd.unet.params)
        if sd.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(sd.device)

    def fill(self, method: Method, folder: Path, asked: Sequence[Asked], find: Find | None, masks: bool) -> None:
        """Draw what is not there yet, with DDIM and eta 0. masks: keep LAG's of the first concept."""
        kept = folder / "masks.npz"
        missing = [one for one in asked if not (folder / f"{one.name}.png").exists()]
        for start in range(0, len(missing), self.job.batch):
            self._draw(method, folder, missing[start : start + self.job.batch], find, masks)
        parts = sorted((folder / "masks").glob("*.npz"))
        if parts and not kept.exists():
            write_arrays(kept, {path.stem: np.load(path)["mask"] for path in parts})
        shutil.rmtree(folder / "masks", ignore_errors=True)

    def _draw(self, method: Method, folder: Path, asked: Sequence[Asked], find: Find | None, masks: bool) -> None:
        started = time.monotonic()
        sampling = self.job.sampling
        made = generate_each(
            self.sd,
            [one.text for one in asked],
            find,
            seeds=[noise_seed(one.prompt, one.image) for one in asked],
            width=self.side,
            height=self.side,
            steps=sampling.steps,
            guidance=sampling.guidance,
            lag=method.lag,
            unconditional=method.unconditional,
        )
        problems = []
        for one, picture in zip(asked, made):
            mask = _mask(picture) if masks else None
            if mask is not None:  # before the picture, whose presence says that all is there
                write_arrays(folder / "masks" / f"{one.name}.npz", {"mask": mask})
            write_picture(folder / f"{one.name}.png", to_images(picture.images)[0])
            problems += [] if one.quiet else picture.problems
        self.log.add(
            "drawn",
            method=method.name,
            pictures=[(one.prompt, one.image) for one in asked],
            seconds=round(time.monotonic() - started, 2),
            problems=list(dict.fromkeys(problems)),
        )

    def facts(self) -> dict:
        """What the pictures took, for piece.json."""
        drawn = self.log.events("drawn")
        return {
            "sample_seconds": round(sum(row["seconds"] for row in drawn), 2),
            "pictures": sum(len(row["pictures"]) for row in drawn),
            "peak_bytes": peak_bytes(self.sd.device),
            "problems": list(dict.fromkeys(text for row in drawn for text in row["problems"])),
        }


def _mask(made: Generated) -> np.ndarray | None:
    """The first concept's mean mask at the latents' size, (h,w) in half precision; None without LAG."""
    if made.masks is None or not made.masks.masks:
        return None
    return made.masks.mean("masks")[0, 0].half().numpy()


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
