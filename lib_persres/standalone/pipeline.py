"""Residuals in a pipeline of diffusers: its own loop, scheduler and callbacks, with our hooks on its UNet.

from lib_persres.standalone import pipeline as persres

with persres.on(pipe, ["rex.safetensors"], lag=True):
    pipe("a photo of a V* dog on the beach").images[0].save("rex.png")
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..branch import Branches
from ..concepts import check_unconditional
from ..errors import PersresError
from ..masks import DEFAULT, MASKS, check_mask
from ..plan import Plans, Row
from ..residual import Residual, family_misfit
from .ldm_view import ldm_view
from .pipeline_inputs import Given, check_pipe, encoders_of, family_of, loaded, texts_of_call
from .pipeline_steps import Steps
from .pipeline_texts import Read, Texts
from .pipeline_words import PipelineWords

MARK = "persres_acting"
"""What a UNet and text encoders have while residuals act in them."""


@contextlib.contextmanager
def on(
    pipe: Any,
    residuals: Given | Sequence[Given] | Mapping[str, Given],
    *,
    lag: bool | str = False,
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
    acting = _Acting(pipe, named, lag, mask, unconditional, tell)
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
    since Python looks for `__call__` there. An `encode_prompt` of the pipeline's own, a user's, is called all the same,
    and one that the user sets or deletes meanwhile is left as he has it."""
    own, users = type(pipe), vars(pipe).get("encode_prompt")

    def acts(self) -> bool:
        return self is pipe and type(self) is meanwhile  # a copy is another pipeline, and a kept method outlives us

    @functools.wraps(own.__call__)
    def call(self, *args, **kwargs):
        with acting.call() if acts(self) else contextlib.nullcontext():
            return own.__call__(self, *args, **kwargs)

    @functools.wraps(own.encode_prompt)
    def encode_prompt(self, *args, **kwargs):
        original = functools.partial(own.encode_prompt, self)
        return acting.encode_prompt(original, args, kwargs) if acts(self) else original(*args, **kwargs)

    @functools.wraps(users or own.encode_prompt)
    def around_users(*args, **kwargs):
        return acting.encode_prompt(users, args, kwargs) if acts(pipe) else users(*args, **kwargs)

    names = {"__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__}
    meanwhile = type(own.__name__, (own,), {**names, "__call__": call, "encode_prompt": encode_prompt})
    pipe.__class__ = meanwhile
    if users is not None:
        pipe.encode_prompt = around_users
    try:
        yield
    finally:
        pipe.__class__ = own
        if vars(pipe).get("encode_prompt") is around_users:
            pipe.encode_prompt = users


def _names_of(kind: type) -> list[str]:
    """The arguments of a pipeline's encode_prompt in their order. One that passes on all it gets has its parent's."""
    for each in kind.__mro__:
        if "encode_prompt" in vars(each):
            names = list(inspect.signature(vars(each)["encode_prompt"]).parameters)[1:]
            if "prompt" in names:
                return names
    return []


@dataclass
class _Call:
    """A call of the pipeline: what its prompts say, for how many pictures, and how far it is."""

    steps: Steps
    read: list[Read] = field(default_factory=list)
    pictures: int = 0
    drawn: bool = False
    """Whether the UNet was called."""


class _Acting:
    """Between a call's texts and its UNet."""

    branches: Branches

    def __init__(self, pipe: Any, named: dict[str, Residual], lag: bool | str, mask: str, unconditional: str, tell):
        self._pipe, self._unconditional, self._tell = pipe, unconditional, tell
        self._texts = Texts(pipe, named, lag, mask)
        tokens = [self._texts.ids(residual.metadata.identifier) for residual in named.values()]
        self._words = PipelineWords(named, encoders_of(pipe), tokens)
        self._names = _names_of(type(pipe))
        self._call: _Call | None = None
        self._encoding = False

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Around a call of the pipeline, within which alone anything acts."""
        if self._call:
            raise PersresError(
                "The pipeline is called within a call of its own while residuals act: call it after that."
            )
        self._call = call = _Call(Steps(self._pipe))
        try:
            yield
        finally:
            self._call = None
        if not call.read:
            self._tell("The residuals did not act: the pipeline's texts did not go through its own encode_prompt.")
        elif not call.drawn:
            self._tell(
                "The residuals did not act: the pipeline did not call the UNet that it had when they were given."
            )

    def encode_prompt(self, original: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """In the place of the pipeline's own, which gets the identifiers for V*. Called alone, it leaves nothing."""
        if self._encoding:  # a user's own came back to ours
            return original(*args, **kwargs)
        asked = dict(zip(self._names, args)) | kwargs
        texts = texts_of_call(asked)
        read = [self._texts.read(text) for text in texts["prompt"]]
        written = {name: [self._texts.written(text, name) for text in several] for name, several in texts.items()}
        said = (
            self._texts.sentences(text, name, first)
            for name, several in texts.items()
            for text, first in zip(several, read)
        )
        for sentence in dict.fromkeys(each for sentences in said for each in sentences):
            self._tell(sentence)
        positional = list(args)
        for name, substituted in written.items():
            plain = [each.text for each in substituted]
            value = plain[0] if isinstance(asked["prompt"], str) else plain
            if name in kwargs:
                kwargs[name] = value
            else:
                positional[self._names.index(name)] = value
        if self._call:
            pictures = len(read) * (asked.get("num_images_per_prompt") or 1)
            self._call.read, self._call.pictures, self._call.steps = read, pictures, Steps(self._pipe)
        standing = {use.concept for each in itertools.chain(*written.values()) for use in each.uses}
        with self._words.read([each.strengths for each in read], standing):
            self._encoding = True
            try:
                return original(*positional, **kwargs)
            finally:
                self._encoding = False

    # -- the UNet's calls

    def before(self, module: nn.Module, args, kwargs) -> None:
        x, time, context = (
            args[place] if place < len(args) else kwargs.get(name)
            for place, name in enumerate(("sample", "timestep", "encoder_hidden_states"))
        )
        self.branches.plan, call = None, self._call
        if call is None or not call.read or context is None:
            return
        pictures = range(call.pictures)
        rows = [Row(picture, 0) for picture in pictures]
        if len(x) == 2 * len(pictures):
            rows = [*(Row(picture, None) for picture in pictures), *rows]
        elif len(x) != len(pictures):
            raise PersresError(
                f"The UNet is called with {len(x)} rows for {len(pictures)} pictures: residuals know calls with a row "
                "for each, or with one for the prompt and one for the negative prompt."
            )
        number, done = call.steps.next(time)
        self.branches.begin(number, done if call.steps.total > 1 else None)
        of_each = len(pictures) // len(call.read)
        uses = [self._texts.uses(call.read[picture // of_each], done) for picture in pictures]
        self.branches.plan = Plans(uses, self._unconditional).plan(rows, context.shape[1], x.device)
        call.drawn = True

    def after(self, module: nn.Module, args, output) -> None:
        self.branches.plan = None
