"""A look at what is learned so far: the same noise drawn plainly and under LAG."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch
from PIL import Image

from ..branch import Branches
from ..concept_tokens import find_concept_tokens
from ..concepts import decide
from ..errors import PersresError
from ..finite import is_finite
from ..learned_words import check_widths, learned_vectors, word_of
from ..masks import DEFAULT, MASKS
from ..plan import Plans, guidance_rows
from ..prompt import Tag, parse_tags, substitute
from ..residual import Residual
from ..sampler import ddim_timesteps, noise_for, sample
from .host import DrawingHost, Host

STEPS = 20
GUIDANCE = 6.0


def draw(
    host: DrawingHost,
    residual: Residual,
    prompt: str,
    side: int,
    seed: int,
    *,
    lag: Sequence[bool] = (False, True),
    progress: Callable[[int, int], None] | None = None,
) -> list[Image.Image]:
    """A picture of a prompt with V* without and one with LAG, from the noise of one seed; lag: which, in order."""
    metadata = residual.metadata
    text = substitute(parse_tags(prompt)[0], [metadata.identifier], [metadata.macro_class]).text.strip()
    with _learned_word(host, residual):
        conditioning, ids = host.encode_prompts([text, ""], side=side)
    found = find_concept_tokens(
        ids[0].tolist(), host.encode_text(metadata.identifier), host.encode_text(metadata.macro_class)
    )
    count = len(lag)
    # the images of one batch: a gate that is open, or the mask
    tag = Tag(metadata.concept, text=metadata.concept)
    uses = [[decide(tag, metadata, [found], lag=each)] for each in lag]
    plan = Plans(uses).plan(guidance_rows(count), conditioning.length, host.device)
    factor = getattr(getattr(host, "vae", None), "factor", 8)
    noise = noise_for([seed], (4, side // factor, side // factor)).repeat(count, 1, 1, 1)
    total = len(ddim_timesteps(STEPS, len(host.alphas_cumprod)))
    with Branches(host.unet, [residual], MASKS[DEFAULT]()) as branches:

        def before_step(index: int, t: int) -> None:
            branches.begin(index, index / total)
            branches.plan = plan

        latents = sample(
            host, conditioning[:1], conditioning[1:], noise, STEPS, GUIDANCE, before_step=before_step, progress=progress
        )
    with torch.no_grad():
        images = host.decode_latents(latents)
    if not is_finite(images):
        raise PersresError(
            "The picture's numbers are not finite (NaN): what was learned is too large for this model; lower the "
            "learning rate, or use full precision."
        )
    pixels = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]


def _learned_word(host: Host, residual: Residual) -> contextlib.AbstractContextManager[None]:
    """The learned vector in the place of the identifier's own: a host is given text, so there is one for one."""
    vectors = learned_vectors(residual)
    if not vectors:
        return contextlib.nullcontext()
    name = residual.metadata.concept or "this concept"
    check_widths(vectors, {encoder: table.embedding_dim for encoder, table in host.token_tables.items()}, name)
    ids = host.encode_text(residual.metadata.identifier)
    many = next((len(each) for each in vectors.values() if len(each) != 1), 1)
    if len(ids) != 1 or many != 1:
        raise PersresError(f"A preview of {name} needs one vector for one token, not {many} for {len(ids)}.")
    return word_of(host.token_tables, ids[0], {encoder: each[0] for encoder, each in vectors.items()})
