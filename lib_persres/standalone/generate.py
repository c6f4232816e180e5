"""From a prompt with `<persres:…>` tags to pictures, without a WebUI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ..branch import Branches
from ..concept_tokens import ConceptTokens
from ..concepts import Use, cannot_confine, check_unconditional, decide
from ..conditioning import Conditioning, joined
from ..errors import PersresError
from ..finite import BASE, TEXT, USUAL_GUIDANCE, VAE, is_finite, too_strong
from ..lag_choice import decided, lag_choice
from ..lora.adapter import text_of, text_problems, word_in, word_problems
from ..masks import DEFAULT, EARLY, MASKS, check_mask
from ..overlay import MaskRecorder
from ..plan import Plans, guidance_rows
from ..prompt import NEGATIVE, Tag, parse_tags, placeholder_of
from ..residual import Residual, family_misfit
from ..sampler import ddim_timesteps, noise_for, sample
from .checkpoint import StableDiffusion
from .reading import LONG, sentences
from .words import Words


@dataclass
class Generated:
    """images: (b,3,H,W) in [0,1]. text: the prompt as the text encoder saw it. problems: sentences for the user.

    masks: the recorder of LAG's masks, None without LAG. uses: each concept's, as the sampling begins.
    """

    images: torch.Tensor
    text: str
    seeds: list[int]
    problems: list[str] = field(default_factory=list)
    masks: MaskRecorder | None = None
    uses: list[Use] = field(default_factory=list)


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
    lag: bool | str = False,
    mask: str = DEFAULT,
    unconditional: str = "mirror",
    progress: Callable[[int, int], None] | None = None,
    tell: Callable[[str], None] = lambda sentence: None,
) -> Generated:
    """One picture for each seed; the same seed is the same noise for every method.

    find_residual: name -> residual; needed where the prompt has tags. lag: LAG for tags that do not say `lag=`,
    True, False or one of `lag_choice.LAG`.
    mask: a name of `masks.MASKS`. unconditional: one of `concepts.UNCONDITIONAL`.
    tell: called with each of the problems before anything is drawn.
    """
    made = prepare(sd, prompt, find_residual, lag, (width, height), mask)
    made.problems += sentences(negative, made.tags, made.words.facts, NEGATIVE) if guidance != 1 else []
    for sentence in made.problems:
        tell(sentence)
    images, recorder = draw(sd, [made], seeds, width, height, negative, steps, guidance, mask, unconditional, progress)
    return Generated(images, made.text, list(seeds), made.problems, recorder, made.uses())


@dataclass
class Prepared:
    """A prompt as it is drawn. tokens, placeholders, lent: of each concept, where it is, how the prompt writes it and
    the words by which it lends its look.

    conditioning: a row of 77 tokens. lag: LAG for tags that do not say.
    """

    text: str
    words: Words
    tags: list[Tag]
    residuals: list[Residual]
    tokens: list[ConceptTokens]
    placeholders: list[str]
    lent: list[str]
    lag: bool | str
    mask: str
    conditioning: Conditioning
    problems: list[str]

    def uses(self, done: float = 0.0) -> list[Use]:
        """done: the part of the sampling that lies behind."""
        return [
            decide(
                tag,
                facts,
                [found],
                lag=self.lag,
                done=done,
                placeholder=placeholder,
                lent=lent,
                early=self.mask in EARLY,
                several=sum(tag.strength != 0 for tag in self.tags) > 1,
                word=word,
            )
            for tag, facts, found, placeholder, lent, word in zip(
                self.tags, self.words.facts, self.tokens, self.placeholders, self.lent, self.words.said
            )
        ]


def prepare(
    sd: StableDiffusion,
    prompt: str,
    find_residual: Callable[[str], Residual] | None,
    lag: bool | str,
    size: tuple[int, int],
    mask: str = DEFAULT,
) -> Prepared:
    """Read a prompt: its tags and residuals, the tokens of its concepts, and what is to be told of it. size: the
    pictures' width and height."""
    given, tags = parse_tags(prompt)
    tags = list({tag.name: tag for tag in tags}.values())
    residuals = []
    for tag in tags:
        if find_residual is None:
            raise PersresError(f"The prompt names {tag.text}, but no residuals were given.")
        residuals.append(find_residual(tag.name))
    for tag, residual in zip(tags, residuals):
        if why := family_misfit(residual.metadata.base_family, sd.family):
            raise PersresError(f"{tag.text}: {why}")
        residual.check(sd.unet, tag.name)
    said = [word_in(residual, given, tag) for residual, tag in zip(residuals, tags)]
    words = Words(sd, residuals, [tag.strength != 0 for tag in tags], tags, said)
    written = words.write(given.strip())
    placeholders = [placeholder_of(given, number) for number in range(1, len(tags) + 1)]
    lent = [written.lent(i, words.facts[i].macro_class, placeholders[i]) for i in range(len(tags))]
    confined = [
        bool(facts.identifier)
        and decided(lag_choice(tag.lag or lag), own)[0]
        and cannot_confine(tag.text, facts, mask in EARLY) is None
        for tag, facts, own in zip(tags, words.facts, lent)
    ]
    files = list(zip(residuals, tags, confined))
    unknown = words.lend([text_of(*file) for file in files])
    conditioning, ids = words.encode(written, size)
    problems = sentences(given, tags, words.facts)
    problems += [told for residual, tag in zip(residuals, tags) for told in word_problems(residual, tag)]
    problems += [told for file, count in zip(files, unknown) for told in text_problems(*file, count)]
    if len(words.read(written)[0]) > 75:
        problems.append(LONG)
    tokens = [words.find(ids[0].tolist(), index) for index in range(len(tags))]
    made = Prepared(written.text, words, tags, residuals, tokens, placeholders, lent, lag, mask, conditioning, problems)
    problems += [sentence for use in made.uses() for sentence in use.sentences]
    return made


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
    multiple = factor * 2 ** (len(sd.unet.channel_mult) - 1)
    if width % multiple or height % multiple or min(width, height) < multiple:
        raise PersresError(f"The picture's sides must be multiples of {multiple}, not {width}×{height}.")
    check_mask(mask)
    check_unconditional(unconditional)
    if not seeds:
        raise PersresError("There is nothing to draw: give at least one seed.")
    residuals = parts[0].residuals
    cond = joined([part.conditioning for part in parts])
    words = parts[0].words
    uncond, _ = words.encode(words.write(negative), (width, height), True) if guidance != 1 else (None, None)
    noise = noise_for(list(seeds), (4, height // factor, width // factor))
    pictures = list(parts) * len(seeds) if len(parts) == 1 else list(parts)
    recorder = MaskRecorder(len(seeds)) if any(use.gated for part in parts for use in part.uses()) else None
    if not residuals:
        latents = sample(sd, cond, uncond, noise, steps, guidance, progress=progress)
    else:
        rows = guidance_rows(len(seeds), guided=guidance != 1)
        total = len(ddim_timesteps(steps, len(sd.alphas_cumprod)))
        with Branches(sd.unet, residuals, MASKS[mask](), recorder) as branches:

            def before_step(index: int, t: int) -> None:
                done = index / total
                branches.begin(index, done if total > 1 else None)
                plans = Plans([picture.uses(done) for picture in pictures], unconditional)
                branches.plan = plans.plan(rows, cond.length, sd.device)

            latents = sample(sd, cond, uncond, noise, steps, guidance, before_step=before_step, progress=progress)
        if recorder is not None:
            recorder.end()
    _check_finite(sd, latents, noise, cond, parts, guidance)
    images = sd.decode_latents(latents)
    if not is_finite(images):
        raise PersresError(VAE)
    return images, recorder


@torch.no_grad()
def _check_finite(sd, latents, noise: torch.Tensor, cond: Conditioning, parts, guidance: float) -> None:
    """PersresError with the likely reason where the latents are not finite."""
    if is_finite(latents):
        return
    if abs(guidance) > USUAL_GUIDANCE:
        raise PersresError(f"The picture's numbers are not finite (NaN): the guidance {guidance:g} is too large.")
    if not cond.is_finite():
        raise PersresError(TEXT)
    t = torch.full((1,), len(sd.alphas_cumprod) - 1, dtype=torch.long, device=sd.device)
    alone = sd.unet(noise[:1].to(sd.device, torch.float32), timesteps=t, **cond[:1].to(sd.device).arguments())
    strengths = {tag.text: tag.strength for part in parts for tag in part.tags}
    raise PersresError(too_strong(strengths) if strengths and torch.isfinite(alone).all() else BASE)
