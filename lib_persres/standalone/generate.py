"""From a prompt with `<persres:…>` tags to pictures, without a WebUI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from ..branch import Branches
from ..concept_tokens import ConceptTokens, absence, find_concept_tokens
from ..errors import PersresError
from ..finite import BASE, TEXT, USUAL_GUIDANCE, VAE, is_finite, too_strong
from ..lag import MASKS, Plan, check_unconditional, guidance_plan
from ..overlay import MaskRecorder
from ..prompt import NEGATIVE, Tag, parse_tags, placeholder_of
from ..residual import Residual
from ..sampler import ddim_timesteps, noise_for, sample
from .checkpoint import StableDiffusion
from .reading import sentences
from .words import Words


@dataclass
class Generated:
    """images: (b,3,H,W) in [0,1]. text: the prompt as the text encoder saw it. problems: sentences for the user.

    masks: the recorder of LAG's masks, None without LAG. tokens: each concept's C in the context.
    """

    images: torch.Tensor
    text: str
    seeds: list[int]
    problems: list[str] = field(default_factory=list)
    masks: MaskRecorder | None = None
    tokens: list[ConceptTokens] = field(default_factory=list)


def generate(
    sd: StableDiffusion,
    prompt: str,
    find_residual: Callable[[str], Residual] | None = None,
    *,
    seeds: Sequence[int] = (0,),
    width: int = 512,
    height: int = 512,
    negative: str = "",
    steps: int = 50,
    guidance: float = 6.0,
    lag: bool = False,
    mask: str = "median",
    unconditional: str = "mirror",
    progress: Callable[[int, int], None] | None = None,
    tell: Callable[[str], None] = lambda sentence: None,
) -> Generated:
    """One picture for each seed; the same seed is the same noise for every method.

    find_residual: name -> residual; needed where the prompt has tags. lag: LAG for tags that do not say `lag=`.
    mask: a name of `lag.MASKS`. unconditional: "mirror" or "base" (see `lag.guidance_plan`).
    tell: called with each of the problems before anything is drawn.
    """
    made = prepare(sd, prompt, find_residual, lag)
    made.problems += sentences(negative, made.tags, made.words.facts, NEGATIVE) if guidance != 1 else []
    for sentence in made.problems:
        tell(sentence)
    images, recorder = draw(
        sd, [made], seeds, width, height, negative, steps, guidance, mask, unconditional, progress
    )
    return Generated(images, made.text, list(seeds), made.problems, recorder, made.tokens)


@dataclass
class Prepared:
    """A prompt as it is drawn. context: (1,77,d). gated: for each concept, whether LAG confines it."""

    text: str
    words: Words
    tags: list[Tag]
    residuals: list[Residual]
    tokens: list[ConceptTokens]
    gated: list[bool]
    context: torch.Tensor
    problems: list[str]


def prepare(
    sd: StableDiffusion, prompt: str, find_residual: Callable[[str], Residual] | None, lag: bool
) -> Prepared:
    """Read a prompt: its tags and residuals, the tokens of its concepts, and what is to be told of it."""
    given, tags = parse_tags(prompt)
    tags = list({tag.name: tag for tag in tags}.values())
    if tags and find_residual is None:
        raise PersresError(f"The prompt names {tags[0].text}, but no residuals were given.")
    residuals = [find_residual(tag.name) for tag in tags]
    for tag, residual in zip(tags, residuals):
        residual.check(sd.unet, tag.name)
    words = Words(sd, residuals, [tag.strength != 0 for tag in tags], tags)
    written = words.write(given.strip())
    text = written.text
    context, ids = words.encode(written)
    problems = sentences(given, tags, words.facts)
    if len(words.read(written)[0]) > 75:
        problems.append("The prompt is longer than 75 tokens; what comes after them is not seen.")
    wanted = [lag if tag.lag is None else tag.lag for tag in tags]
    written_as = [placeholder_of(given, number) for number in range(1, len(tags) + 1)]
    tokens = [find_tokens(words, ids[0].tolist(), i, placeholder) for i, placeholder in enumerate(written_as)]
    for index, (tag, residual) in enumerate(zip(tags, residuals)):
        if wanted[index] and (problem := residual.lag_problem(tag.text)):
            wanted[index] = False
            problems.append(problem)
    for tag, gated, found, placeholder in zip(tags, wanted, tokens, written_as):
        if gated and found.problem:
            problems.append(found.problem)
        elif not found.identifier_found:
            problems.append(absence(tag.text, placeholder))
    # under LAG a concept that nothing in the prompt asks for has no place in the picture
    tags = [
        tag if found.identifier_found or not gate else replace(tag, strength=0.0)
        for tag, gate, found in zip(tags, wanted, tokens)
    ]
    gated = [gate and bool(found.indices) for gate, found in zip(wanted, tokens)]
    return Prepared(text, words, tags, residuals, tokens, gated, context, problems)


def draw(
    sd: StableDiffusion,
    parts: Sequence[Prepared],
    seeds: Sequence[int],
    width: int,
    height: int,
    negative: str,
    steps: int,
    guidance: float,
    mask: str,
    unconditional: str,
    progress: Callable[[int, int], None] | None,
) -> tuple[torch.Tensor, MaskRecorder | None]:
    """The pictures (b,3,H,W), one for each seed. parts: one prompt for all, or one for each, of the same concepts."""
    factor = sd.vae.factor
    multiple = factor * 2 ** (len(sd.unet.params["channel_mult"]) - 1)
    if width % multiple or height % multiple or min(width, height) < multiple:
        raise PersresError(f"The picture's sides must be multiples of {multiple}, not {width}×{height}.")
    if mask not in MASKS:
        raise PersresError(f"There is no mask {mask!r}; the masks are: {', '.join(MASKS)}.")
    check_unconditional(unconditional)
    if not seeds:
        raise PersresError("There is nothing to draw: give at least one seed.")
    residuals = parts[0].residuals
    context = torch.cat([part.context for part in parts])
    words = parts[0].words
    uncond, _ = words.encode(words.write(negative)) if guidance != 1 else (None, None)
    noise = noise_for(list(seeds), (4, height // factor, width // factor))
    recorder = MaskRecorder() if any(gate for part in parts for gate in part.gated) else None
    if not residuals:
        latents = sample(sd, context, uncond, noise, steps, guidance, progress=progress)
    else:
        plans = _Plans(sd, parts, len(seeds), MASKS[mask], unconditional, guidance != 1, recorder)
        total = len(ddim_timesteps(steps, len(sd.alphas_cumprod)))
        with Branches(sd.unet, residuals) as branches:

            def before_step(index: int, t: int) -> None:
                branches.plan = plans.at(index / total)

            latents = sample(
                sd, context, uncond, noise, steps, guidance, before_step=before_step, progress=progress
            )
    _check_finite(sd, latents, noise, context, parts, guidance)
    images = sd.decode_latents(latents)
    if not is_finite(images):
        raise PersresError(VAE)
    return images, recorder


@torch.no_grad()
def _check_finite(sd, latents, noise: torch.Tensor, context: torch.Tensor, parts, guidance: float) -> None:
    """PersresError with the likely reason where the latents are not finite."""
    if is_finite(latents):
        return
    if abs(guidance) > USUAL_GUIDANCE:
        raise PersresError(f"The picture's numbers are not finite (NaN): the guidance {guidance:g} is too large.")
    if not torch.isfinite(context).all():
        raise PersresError(TEXT)
    t = torch.full((1,), len(sd.alphas_cumprod) - 1, dtype=torch.long, device=sd.device)
    alone = sd.unet(noise[:1].to(sd.device, torch.float32), timesteps=t, context=context[:1].to(sd.device))
    strengths = {tag.text: tag.strength for part in parts for tag in part.tags}
    raise PersresError(too_strong(strengths) if strengths and torch.isfinite(alone).all() else BASE)


def find_tokens(words: Words, ids: list[int], index: int, placeholder: str) -> ConceptTokens:
    """The tokens of the index-th concept in the ids of a prompt's context. placeholder: how the prompt writes it."""
    spelled = [(words.spelled(i), words.sd.encode_text(f.macro_class)) for i, f in enumerate(words.facts)]
    return find_concept_tokens(
        ids,
        *spelled[index],
        macro_class=words.facts[index].macro_class,
        concept=words.tags[index].text,
        placeholder=placeholder,
        others=[pair for i, pair in enumerate(spelled) if i != index],
    )


class _Plans:
    """The plan of each step: tags may start late or end early."""

    def __init__(self, sd, parts: Sequence[Prepared], images, mask, unconditional, guided, recorder):
        self.rows, self.device = list(parts) if len(parts) > 1 else list(parts) * images, sd.device
        concepts = len(parts[0].tags)
        self.gated = torch.tensor([part.gated for part in self.rows], device=sd.device)
        self.indicator = torch.zeros(images, concepts, sd.text.tokenizer.length, device=sd.device)
        for row, part in enumerate(self.rows):
            for index, found in enumerate(part.tokens):
                self.indicator[row, index, list(found.indices)] = 1
        self.options = {
            "unconditional": unconditional if guided else None,
            "mask": mask,
            "recorder": recorder,
        }
        self._made: dict[tuple, Plan] = {}

    def at(self, part: float) -> Plan:
        strengths = tuple(
            tuple(tag.strength if tag.start <= part < tag.end else 0.0 for tag in row.tags) for row in self.rows
        )
        if strengths not in self._made:
            strength = torch.tensor(strengths, device=self.device)
            self._made[strengths] = guidance_plan(strength, self.gated, self.indicator, **self.options)
        return self._made[strengths]
