"""Methods' pictures drawn into a piece's folder, some at a time, each from its own noise; and what that took."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..residual import Residual
from ..standalone.checkpoint import StableDiffusion
from ..standalone.generate_each import generate_each
from .protocol import noise_seed
from .run_folder import PieceFolder, picture_name
from .scores.masked import to_images
from .suite import Method, Sampling


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

    So pictures from the same noise can be compared.
    """
    return re.sub(r"V(\d?)\*", lambda found: identifiers[int(found[1] or 1) - 1], text)


class Drawing:
    """batch: pictures at a time. masks: keep LAG's of the first concept."""

    def __init__(self, folder: PieceFolder, sd: StableDiffusion, sampling: Sampling, batch: int, masks: bool):
        self.folder, self.sd, self.sampling, self.batch, self.masks = folder, sd, sampling, batch, masks
        self.side = sd.side
        if sd.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(sd.device)

    def fill(self, method: Method, asked: Sequence[Asked], find: Callable[[str], Residual] | None) -> None:
        """Draw what is asked, with DDIM and eta 0."""
        for start in range(0, len(asked), self.batch):
            self._draw(method, asked[start : start + self.batch], find)
        self.folder.gather_masks(method.name)

    def _draw(self, method: Method, asked: Sequence[Asked], find: Callable[[str], Residual] | None) -> None:
        started, problems = time.monotonic(), []
        made = generate_each(
            self.sd,
            [one.text for one in asked],
            find,
            seeds=[noise_seed(one.prompt, one.image) for one in asked],
            width=self.side,
            height=self.side,
            steps=self.sampling.steps,
            guidance=self.sampling.guidance,
            lag=method.lag,
            mask=method.mask,
            unconditional=method.unconditional,
        )
        for one, picture in zip(asked, made):
            (image,), mask = to_images(picture.images), None
            if self.masks and picture.masks and picture.masks.masks:
                mask = picture.masks.mean("masks")[0, 0].half().numpy()
            self.folder.write_picture(method.name, one.name, image, mask)
            problems += [] if one.quiet else picture.problems
        self.folder.log.add(
            "drawn",
            method=method.name,
            pictures=[(one.prompt, one.image) for one in asked],
            seconds=round(time.monotonic() - started, 2),
            problems=list(dict.fromkeys(problems)),
        )

    def facts(self) -> dict:
        """What the pictures took, for piece.json."""
        drawn = self.folder.log.events("drawn")
        return {
            "sample_seconds": round(sum(row["seconds"] for row in drawn), 2),
            "pictures": sum(len(row["pictures"]) for row in drawn),
            "peak_bytes": peak_bytes(self.sd.device),
            "problems": list(dict.fromkeys(text for row in drawn for text in row["problems"])),
        }


def peak_bytes(device: torch.device) -> int | None:
    """On CUDA the most that was allocated; on a CPU the most that the process held. None where it is not told."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
