"""Residuals in a pipeline of diffusers: its own loop, scheduler and callbacks, with our hooks on its UNet.

import lib_persres as persres
with persres.on(pipe, ["rex.safetensors"], lag=True):
    pipe("a photo of a V* dog on the beach").images[0].save("rex.png")
"""

from __future__ import annotations

import contextlib
import inspect
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..branch import Branches
from ..concept_tokens import ConceptTokens, find_concept_tokens
from ..concepts import check_unconditional, decide
from ..errors import PersresError
from ..learned_words import check_widths, learned_vectors, vectors_for
from ..masks import MASKS, check_mask
from ..plan import Plans, Row
from ..prompt import NEGATIVE, Tag, parse_tags, placeholder_of
from ..residual import ENCODERS, Residual
from .ldm_view import ldm_view
from .reading import write

CONTEXTS = {768: "SD1", 1024: "SD2", 2048: "SDXL"}
"""The width of a text's context tells a family; others are none of these."""
PROMPTS = ("prompt", "prompt_2")
NEGATIVES = ("negative_prompt", "negative_prompt_2")


@contextlib.contextmanager
def on(
    pipe: Any,
    residuals: Sequence[str | os.PathLike | Residual] | Mapping[str, str | os.PathLike | Residual],
    *,
    lag: bool = False,
    mask: str = "median",
    unconditional: str = "mirror",
    tell: Callable[[str], None] = warnings.warn,
) -> Iterator[Any]:
    """The residuals act in the pipeline's calls meanwhile; afterwards it is as it was.

    pipe: a StableDiffusionPipeline or StableDiffusionXLPipeline of diffusers, or one for images or inpainting, loaded
    as one likes. residuals: files or residuals; a mapping gives them names for tags, else a file's stem or the concept
    is one. A prompt may have `<persres:NAME:STRENGTH>` as everywhere; those without a tag act at 1. V* is the concept
    of one residual, V1*, V2* … of several in their order. lag, mask, unconditional: as in `generate`. tell: told what
    the user should know. Yields the pipeline. Raises PersresError for what does not fit it, and out of its call for a
    prompt that cannot be drawn.
    """
    check_mask(mask)
    check_unconditional(unconditional)
    if isinstance(getattr(pipe.encode_prompt, "__self__", None), _Acting):
        raise PersresError("Residuals act in this pipeline already: give all of them to one `on`.")
    loaded = _loaded(residuals)
    if not loaded:
        raise PersresError("There is no residual to act: give at least one.")
    view = ldm_view(pipe.unet)
    family = CONTEXTS.get(pipe.unet.config.cross_attention_dim, "")
    for name, residual in loaded.items():
        made_for = residual.metadata.base_family
        if family and made_for in CONTEXTS.values() and made_for != family:
            raise PersresError(f"{name} was made for {made_for}, and this pipeline's model is {family}.")
        residual.check(view, name)
    acting = _Acting(pipe, loaded, lag, unconditional, tell)
    with contextlib.ExitStack() as stack:
        acting.branches = stack.enter_context(Branches(view, list(loaded.values()), MASKS[mask]()))
        for table, vectors in acting.learned_words():
            stack.enter_context(vectors_for(table, vectors))
        before = vars(pipe).get("encode_prompt")  # somebody else's
        pipe.encode_prompt = acting.encode_prompt
        if before is None:
            stack.callback(delattr, pipe, "encode_prompt")
        else:
            stack.callback(setattr, pipe, "encode_prompt", before)
        stack.callback(pipe.unet.register_forward_pre_hook(acting.before, with_kwargs=True).remove)
        stack.callback(pipe.unet.register_forward_hook(acting.after, always_call=True).remove)
        yield pipe


def _loaded(residuals) -> dict[str, Residual]:
    if isinstance(residuals, (str, os.PathLike, Residual)):
        residuals = [residuals]
    if not isinstance(residuals, Mapping):
        residuals = {
            (each.metadata.concept or f"concept {number}") if isinstance(each, Residual) else Path(each).stem: each
            for number, each in enumerate(residuals, 1)
        }
    return {name: each if isinstance(each, Residual) else Residual.load(each) for name, each in residuals.items()}


class _Acting:
    """Between a call's texts and its UNet."""

    branches: Branches

    def __init__(self, pipe: Any, loaded: dict[str, Residual], lag: bool, unconditional: str, tell):
        self._pipe, self._loaded, self._lag, self._unconditional, self._tell = pipe, loaded, lag, unconditional, tell
        self._encode = pipe.encode_prompt
        self._facts = [residual.metadata for residual in loaded.values()]
        self._texts: list[tuple[list[Tag], list[ConceptTokens], list[str]]] = []
        """Of each text of the call: the tags, and where the concepts are and how they are written."""
        self._pictures = 0
        self._calls = 0

    def learned_words(self) -> Iterator[tuple[nn.Embedding, dict[int, torch.Tensor]]]:
        """Each text encoder's table, and which tokens' vectors are others."""
        encoders = [getattr(self._pipe, name, None) for name in ("text_encoder", "text_encoder_2")]
        found = [encoder.get_input_embeddings() for encoder in encoders if encoder is not None]
        tables = dict(zip(ENCODERS[:1] if len(found) == 1 else ENCODERS[1:], found))
        vectors: dict[str, dict[int, torch.Tensor]] = {encoder: {} for encoder in tables}
        for name, residual in self._loaded.items():
            if not (learned := learned_vectors(residual)):
                continue
            check_widths(learned, {encoder: table.embedding_dim for encoder, table in tables.items()}, name)
            ids = self._ids(residual.metadata.identifier)
            if len(ids) != 1 or any(len(each) != 1 for each in learned.values()):
                raise PersresError(f"A pipeline reads a word of one vector for one token, which that of {name} is not.")
            for encoder, each in learned.items():
                if ids[0] in vectors[encoder]:
                    raise PersresError(
                        f'The identifier of {name}, "{residual.metadata.identifier}", is another residual\'s learned '
                        "word, too: train one of them with another identifier."
                    )
                vectors[encoder][ids[0]] = each[0]
        return ((table, vectors[encoder]) for encoder, table in tables.items() if vectors[encoder])

    def _ids(self, text: str) -> list[int]:
        return self._pipe.tokenizer(text, add_special_tokens=False).input_ids

    # -- the call's texts

    def encode_prompt(self, *args, **kwargs):
        """In the place of the pipeline's own, which gets the identifiers for V*."""
        given = inspect.signature(self._encode).bind(*args, **kwargs)
        asked = given.arguments
        if asked.get("prompt") is None:
            raise PersresError("Residuals want to know the prompt's words: give the prompt, not its embeddings.")
        texts = [asked["prompt"]] if isinstance(asked["prompt"], str) else list(asked["prompt"])
        if not texts or not all(isinstance(text, str) for text in texts):
            raise PersresError("A prompt is a text or a list of texts.")
        self._texts = [self._read(text) for text in texts]
        self._pictures = len(texts) * (asked.get("num_images_per_prompt") or 1)
        self._calls = 0
        for name in (*PROMPTS, *NEGATIVES):
            if (text := asked.get(name)) is not None:
                what = "prompt" if name in PROMPTS else NEGATIVE
                written = [self._written(each, what) for each in ([text] if isinstance(text, str) else text)]
                asked[name] = written[0] if isinstance(text, str) else written
        return self._encode(*given.args, **given.kwargs)

    def _tags(self, text: str) -> tuple[str, list[Tag]]:
        """The text without its tags, and a tag for each residual."""
        rest, tags = parse_tags(text)
        named = {tag.name: tag for tag in tags}
        if strange := next((tag.text for name, tag in named.items() if name not in self._loaded), None):
            raise PersresError(f"The prompt names {strange}, which is none of {', '.join(self._loaded)}.")
        return rest, [named.get(name) or Tag(name, text=name) for name in self._loaded]

    def _written(self, text: str, what: str) -> str:
        rest, tags = self._tags(text)
        return write(rest.strip(), tags, self._facts, what).text

    def _read(self, text: str) -> tuple[list[Tag], list[ConceptTokens], list[str]]:
        rest, tags = self._tags(text)
        written = write(rest.strip(), tags, self._facts).text
        tokenizer = self._pipe.tokenizer
        ids = tokenizer(written, padding="max_length", truncation=True, max_length=tokenizer.model_max_length).input_ids
        spelled = [(self._ids(facts.identifier), self._ids(facts.macro_class)) for facts in self._facts]
        tokens = [
            find_concept_tokens(ids, *own, others=[pair for other, pair in enumerate(spelled) if other != index])
            for index, own in enumerate(spelled)
        ]
        read = tags, tokens, [placeholder_of(rest, number) for number in range(1, len(tags) + 1)]
        for sentence in dict.fromkeys(s for use in self._uses(read, 0.0) for s in use.sentences):
            self._tell(sentence)
        return read

    def _uses(self, read, done: float):
        tags, tokens, placeholders = read
        return [
            decide(tag, facts, [found], lag=self._lag, done=done, placeholder=placeholder)
            for tag, facts, found, placeholder in zip(tags, self._facts, tokens, placeholders)
        ]

    # -- the UNet's calls

    def before(self, module: nn.Module, args, kwargs) -> None:
        x, context = args[0] if args else kwargs["sample"], kwargs.get("encoder_hidden_states")
        self.branches.plan = None
        if not self._pictures or context is None:
            return
        pictures = range(self._pictures)
        rows = [Row(picture, 0) for picture in pictures]
        if len(x) == 2 * len(pictures):
            rows = [*(Row(picture, None) for picture in pictures), *rows]
        elif len(x) != len(pictures):
            raise PersresError(
                f"The UNet is called with {len(x)} rows for {len(pictures)} pictures: residuals know calls with a row "
                "for each, or with one for the prompt and one for the negative prompt."
            )
        total = getattr(self._pipe, "num_timesteps", 0) or 1
        done = min(self._calls / total, 1.0)
        self.branches.begin(self._calls, done)
        of_each = len(pictures) // len(self._texts)
        uses = [self._uses(self._texts[picture // of_each], done) for picture in pictures]
        self.branches.plan = Plans(uses, self._unconditional).plan(rows, context.shape[1], x.device)
        self._calls += 1

    def after(self, module: nn.Module, args, output) -> None:
        self.branches.plan = None
