"""Pictures of several prompts in one batch, which on small models takes much less time than one prompt at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import PersresError
from ..masks import DEFAULT
from ..residual import Residual
from .checkpoint import StableDiffusion
from .generate import Generated, draw, prepare


def generate_each(
    sd: StableDiffusion,
    prompts: Sequence[str],
    find_residual: Callable[[str], Residual] | None = None,
    *,
    seeds: Sequence[int],
    width: int = 512,
    height: int = 512,
    negative: str = "",
    steps: int = 50,
    guidance: float = 6.0,
    lag: bool | str = False,
    mask: str = DEFAULT,
    unconditional: str = "mirror",
) -> list[Generated]:
    """For each prompt the picture of its seed, as `generate` draws it. All have tags of the same concepts."""
    if len(prompts) != len(seeds):
        raise PersresError(f"{len(prompts)} prompts need a seed each, not {len(seeds)}.")
    known = {prompt: prepare(sd, prompt, find_residual, lag, (width, height), mask) for prompt in prompts}
    parts = [known[prompt] for prompt in prompts]
    named = [[tag.name for tag in part.tags] for part in parts]
    if any(names != named[0] for names in named):
        raise PersresError("Prompts that are drawn together must have <persres:…> tags of the same concepts.")
    images, recorder = draw(sd, parts, seeds, width, height, negative, steps, guidance, mask, unconditional, None)
    uses = [part.uses() for part in parts]
    return [
        Generated(
            images[row : row + 1],
            part.text,
            [seed],
            part.problems,
            recorder.of(row) if recorder is not None and any(use.gated for use in uses[row]) else None,
            uses[row],
        )
        for row, (part, seed) in enumerate(zip(parts, seeds))
    ]
