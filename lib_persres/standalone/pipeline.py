"""Residuals in a pipeline of diffusers: its own loop, scheduler and callbacks, with our hooks on its UNet.

from lib_persres.standalone import pipeline as persres

with persres.on(pipe, ["rex.safetensors"], lag=True):
    pipe("a photo of a V* dog on the beach").images[0].save("rex.png")
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..branch import Branches
from ..concept_tokens import ConceptTokens, find_concept_tokens
from ..concepts import Use, check_unconditional, decide
from ..emphasis import parts_of
from ..errors import PersresError
from ..learned_words import check_widths, learned_vectors, word_of
from ..masks import DEFAULT, MASKS, check_mask
from ..misreadings import misreadings
from ..names import one_form
from ..plan import Plans, Row
from ..prompt import NEGATIVE, Substituted, Tag, parse_tags, placeholder_of
from ..residual import ENCODERS, Residual, family_misfit
from .emphasis import not_understood
from .ldm_view import ldm_view
from .pipeline_inputs import Given, check_pipe, encoders_of, family_of, loaded, texts_of
from .reading import LONG, write

MARK = "persres_acting"
"""What a UNet and text encoders have while residuals act in them."""
TEXTS = {"prompt": "prompt", "prompt_2": "prompt_2", "negative_prompt": NEGATIVE, "negative_prompt_2": NEGATIVE}
"""The arguments with a call's texts, and what sentences call them."""


@contextlib.contextmanager
def on(
    pipe: Any,
    residuals: Given | Sequence[Given] | Mapping[str, Given],
    *,
    lag: bool = False,
    mask: str = DEFAULT,
    unconditional: str = "mirror",
    tell: Callable[[str], None] = warnings.warn,
) -> Iterator[Any]:
    """The residuals act in the calls of this pipeline meanwhile; afterwards it is as it was.

    pipe: a StableDiffusionPipeline or StableDiffusionXLPipeline of diffusers, or one for images or inpainting, loaded
    as one likes. Others that share its parts stay as they are. residuals: files or residuals; a mapping gives them
    names for tags, else a file's stem or the concept is one. A prompt may have `<persres:NAME:STRENGTH>` as everywhere;
    those without a tag act at 1. V* is the concept of one residual, V1*, V2* … of several in their order. lag, mask,
    unconditional: as in `generate`. tell: told what the user should know. Yields the pipeline. Raises PersresError for
    what does not fit it, and out of its call for a prompt that cannot be drawn.
    """
    check_mask(mask)
    check_unconditional(unconditional)
    check_pipe(pipe)
    named = loaded(residuals)
    view, family = ldm_view(pipe.unet), family_of(pipe.unet)
    for name, residual in named.items():
        if misfit := family_misfit(residual.metadata.base_family, family):
            raise PersresError(f"{name}: {misfit}")
        residual.check(view, name)
    acting = _Acting(pipe, named, lag, unconditional, tell)
    with contextlib.ExitStack() as stack:
        for module in (pipe.unet, *encoders_of(pipe)):
            stack.enter_context(_marked(module))
        acting.branches = stack.enter_context(Branches(view, list(named.values()), MASKS[mask]()))
        stack.callback(pipe.unet.register_forward_pre_hook(acting.before, with_kwargs=True).remove)
        stack.callback(pipe.unet.register_forward_hook(acting.after, always_call=True).remove)
        stack.enter_context(_calls_of(pipe, acting))
        yield pipe


@contextlib.contextmanager
def _marked(module: nn.Module) -> Iterator[None]:
    if hasattr(module, MARK):
        raise PersresError(
            "Residuals act in this pipeline already, or in another that shares its parts: give all of them to one `on`."
        )
    setattr(module, MARK, True)
    try:
        yield
    finally:
        delattr(module, MARK)


@contextlib.contextmanager
def _calls_of(pipe: Any, acting: _Acting) -> Iterator[None]:
    """The pipeline's calls and their texts go by way of `acting`: it is of a class that is its own but for these two,
    since Python looks for `__call__` there. An `encode_prompt` of its own (the user's) is called all the same."""
    own, replaced = type(pipe), vars(pipe).pop("encode_prompt", None)

    @functools.wraps(own.__call__)
    def call(self, *args, **kwargs):
        if self is not pipe:
            return own.__call__(self, *args, **kwargs)
        with acting.call():
            return own.__call__(self, *args, **kwargs)

    @functools.wraps(own.encode_prompt)
    def encode_prompt(self, *args, **kwargs):
        original = functools.partial(own.encode_prompt, self) if replaced is None or self is not pipe else replaced
        return acting.encode_prompt(original, args, kwargs) if self is pipe else original(*args, **kwargs)

    names = {"__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__}
    pipe.__class__ = type(own.__name__, (own,), {**names, "__call__": call, "encode_prompt": encode_prompt})
    try:
        yield
    finally:
        pipe.__class__ = own
        if replaced is not None:
            vars(pipe).setdefault("encode_prompt", replaced)  # unless the user has put another there


class _Acting:
    """Between a call's texts and its UNet."""

    branches: Branches

    def __init__(self, pipe: Any, named: dict[str, Residual], lag: bool, unconditional: str, tell):
        self._pipe, self._named, self._lag, self._unconditional, self._tell = pipe, named, lag, unconditional, tell
        self._facts = [residual.metadata for residual in named.values()]
        found = [encoder.get_input_embeddings() for encoder in encoders_of(pipe)]
        self._tables = dict(zip(ENCODERS[:1] if len(found) == 1 else ENCODERS[1:], found))
        self._words = self._learned_words()
        """Of each concept with a learned word: its token, and each encoder's vector."""
        self._running = False
        self._forget()

    def _forget(self) -> None:
        self._texts: list[tuple[list[Tag], list[ConceptTokens], list[str]]] = []
        """Of each text of the call: the tags, and where the concepts are and how they are written."""
        self._pictures = self._evaluations = 0

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Around a call of the pipeline, within which alone anything acts."""
        self._running, unread = True, True
        try:
            yield
            unread = not self._texts
        finally:
            self._running = False
            self._forget()
        if unread:
            self._tell("The residuals did not act: the pipeline's texts did not go through its own encode_prompt.")

    def _learned_words(self) -> dict[int, tuple[int, dict[str, torch.Tensor]]]:
        words = {}
        tokens = [self._ids(facts.identifier) for facts in self._facts]
        for index, (name, residual) in enumerate(self._named.items()):
            if not (learned := learned_vectors(residual)):
                continue
            check_widths(learned, {encoder: table.embedding_dim for encoder, table in self._tables.items()}, name)
            if len(tokens[index]) != 1 or any(len(each) != 1 for each in learned.values()):
                raise PersresError(f"A pipeline reads a word of one vector for one token, which that of {name} is not.")
            if tokens.count(tokens[index]) > 1:
                raise PersresError(
                    f'{name} has a learned word for its identifier, "{residual.metadata.identifier}", which is another '
                    "residual's identifier, too: train one of them with another identifier."
                )
            words[index] = tokens[index][0], {encoder: each[0] for encoder, each in learned.items()}
        return words

    def _ids(self, text: str) -> list[int]:
        return self._pipe.tokenizer(text, add_special_tokens=False).input_ids

    # -- the call's texts

    def encode_prompt(self, original: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """In the place of the pipeline's own, which gets the identifiers for V*. Called alone, it leaves nothing."""
        given = inspect.signature(original).bind(*args, **kwargs)
        asked = given.arguments
        if asked.get("prompt") is None:
            raise PersresError("Residuals want to know the prompt's words: give the prompt, not its embeddings.")
        guided = asked.get("do_classifier_free_guidance", True)
        names = [name for name in TEXTS if asked.get(name) is not None and (guided or not name.startswith("negative"))]
        texts = {name: texts_of(asked[name], TEXTS[name]) for name in names}
        read = [self._read(text) for text in texts["prompt"]]
        for name, several in texts.items():
            written = [self._written(text, name).text for text in several]
            asked[name] = written[0] if isinstance(asked[name], str) else written
        if self._running:
            self._texts, self._evaluations = read, 0
            self._pictures = len(read) * (asked.get("num_images_per_prompt") or 1)
        with contextlib.ExitStack() as stack:
            for index, (token, vectors) in self._words.items():
                if self._is_used(index, read):
                    stack.enter_context(word_of(self._tables, token, vectors))
            return original(*given.args, **given.kwargs)

    def _is_used(self, index: int, read) -> bool:
        """Whether a concept's learned word is read: not at strength 0, where the model's own is."""
        found = {tags[index].strength != 0 for tags, _, _ in read}
        if len(found) > 1:
            raise PersresError(
                f"{list(self._named)[index]} has a learned word and is left out of some prompts of this call alone: "
                "draw those in a call of their own."
            )
        return found == {True}

    def _tags(self, text: str) -> tuple[str, list[Tag]]:
        """The text without its tags, and a tag for each residual."""
        rest, tags = parse_tags(text)
        named = {one_form(tag.name): tag for tag in tags}
        if strange := next((tag.text for name, tag in named.items() if name not in self._named), None):
            raise PersresError(f"The prompt names {strange}, which is none of {', '.join(self._named)}.")
        return rest.strip(), [named.get(name) or Tag(name, text=name) for name in self._named]

    def _written(self, text: str, name: str) -> Substituted:
        rest, tags = self._tags(text)
        if name != "prompt" and rest != text.strip():
            raise PersresError(f"A tag in {name} says nothing: write <persres:…> into the prompt.")
        return write(rest, tags, self._facts, TEXTS[name])

    def _read(self, text: str) -> tuple[list[Tag], list[ConceptTokens], list[str]]:
        rest, tags = self._tags(text)
        written = self._written(text, "prompt")
        tokenizer, ours = self._pipe.tokenizer, written.text
        if convert := getattr(self._pipe, "maybe_convert_prompt", None):
            ours = convert(ours, tokenizer)  # a textual inversion of several vectors becomes several words
        ids = tokenizer(ours, padding="max_length", truncation=True, max_length=tokenizer.model_max_length).input_ids
        spelled = [(self._ids(facts.identifier), self._ids(facts.macro_class)) for facts in self._facts]
        tokens = [
            find_concept_tokens(ids, *own, others=[pair for other, pair in enumerate(spelled) if other != index])
            for index, own in enumerate(spelled)
        ]
        read = tags, tokens, [placeholder_of(rest, number) for number in range(1, len(tags) + 1)]
        told = [*misreadings(rest, True), *not_understood(rest)]
        if any(part.weight != 1 for part in parts_of(written)):
            told.append("Brackets are words to a pipeline: it knows no emphasis.")
        if len(self._ids(ours)) > tokenizer.model_max_length - 2:
            told.append(LONG)
        told += [sentence for use in self._uses(read, 0.0) for sentence in use.sentences]
        for sentence in dict.fromkeys(told):
            self._tell(sentence)
        return read

    def _uses(self, read, done: float) -> list[Use]:
        tags, tokens, placeholders = read
        return [
            decide(tag, facts, [found], lag=self._lag, done=done, placeholder=placeholder)
            for tag, facts, found, placeholder in zip(tags, self._facts, tokens, placeholders)
        ]

    # -- the UNet's calls

    def before(self, module: nn.Module, args, kwargs) -> None:
        x, context = args[0] if args else kwargs["sample"], kwargs.get("encoder_hidden_states")
        self.branches.plan = None
        if not self._running or not self._pictures or context is None:
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
        done = min(self._evaluations / self._total(), 1.0)
        self.branches.begin(self._evaluations, done)
        of_each = len(pictures) // len(self._texts)
        uses = [self._uses(self._texts[picture // of_each], done) for picture in pictures]
        self.branches.plan = Plans(uses, self._unconditional).plan(rows, context.shape[1], x.device)
        self._evaluations += 1

    def _total(self) -> int:
        """How often the call evaluates the UNet, as the pipeline says, or its scheduler."""
        scheduled = getattr(self._pipe.scheduler, "timesteps", None)
        total = getattr(self._pipe, "num_timesteps", None) or (0 if scheduled is None else len(scheduled))
        if not total:
            raise PersresError(f"{type(self._pipe).__name__} does not tell its steps, so residuals cannot act in it.")
        return total

    def after(self, module: nn.Module, args, output) -> None:
        self.branches.plan = None
