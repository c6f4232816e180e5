"""What is given to `pipeline.on` and to a pipeline's call, checked: each mistake is a sentence before anything acts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import PersresError, readable
from ..names import one_form, refuse_controls
from ..prompt import NEGATIVE
from ..residual import Residual

CONTEXTS = {768: "SD1", 1024: "SD2", 2048: "SDXL"}
"""The width of a text's context tells a family; others are none of these."""
TEXTS = {"prompt": "prompt", "prompt_2": "prompt_2", "negative_prompt": NEGATIVE, "negative_prompt_2": NEGATIVE}
"""The arguments with a call's texts, and what sentences call them."""
PARTS = ("unet", "scheduler", "tokenizer", "text_encoder", "encode_prompt")

Given = str | os.PathLike | Residual


def check_pipe(pipe: Any) -> None:
    """PersresError for what is no pipeline of SD1, SD2 or SDXL with all that its texts need."""
    second = [name for name in ("tokenizer_2", "text_encoder_2") if hasattr(pipe, name)]
    for name in (*PARTS, *second):
        if getattr(pipe, name, None) is None:
            raise PersresError(
                f"Residuals act in diffusers' pipelines of SD1, SD2 and SDXL: {type(pipe).__name__} has no {name}."
            )


def family_of(unet: nn.Module) -> str:
    """By the context's width, "" for others."""
    widths = unet.config.cross_attention_dim
    found = set(widths) if isinstance(widths, (list, tuple)) else {widths}
    return CONTEXTS.get(found.pop(), "") if len(found) == 1 else ""


def encoders_of(pipe: Any) -> list[nn.Module]:
    """The text encoders, in the order of `residual.ENCODERS`."""
    found = (getattr(pipe, name, None) for name in ("text_encoder", "text_encoder_2"))
    return [encoder for encoder in found if encoder is not None]


def loaded(residuals: Given | Sequence[Given] | Mapping[str, Given]) -> dict[str, Residual]:
    """Each by its name; no two may have the same one."""
    if isinstance(residuals, (str, os.PathLike, Residual)):
        residuals = [residuals]
    if isinstance(residuals, Mapping):
        named = [(name, each) for name, each in residuals.items()]
    elif isinstance(residuals, Sequence) and not isinstance(residuals, bytes):
        named = [(_name(each, number), each) for number, each in enumerate(residuals, 1)]
    else:
        raise PersresError(f"Residuals are files, a list of them or names with files, not {_short(residuals)}.")
    if not named:
        raise PersresError("There is no residual to act: give at least one.")
    found: dict[str, Residual] = {}
    for name, each in named:
        if not isinstance(name, str) or not isinstance(each, (str, os.PathLike, Residual)):
            raise PersresError(f"A residual is a file or a Residual, by a name that is a text, not {_short(each)}.")
        name = one_form(name)
        if name in found:
            raise PersresError(f'Two residuals are called "{name}": give them as {{"a name": file, …}}.')
        found[name] = each if isinstance(each, Residual) else Residual.load(each)
        _check_finite(found[name], name)
    return found


def _name(given: Any, number: int) -> Any:
    if isinstance(given, Residual):
        return given.metadata.concept or f"concept {number}"
    return Path(given).stem if isinstance(given, (str, os.PathLike)) else ""


def _check_finite(residual: Residual, name: str) -> None:
    factors = [tensor for each in residual.factors.values() for tensor in (each.down, each.up)]
    if not all(tensor.isfinite().all() for tensor in (*factors, *residual.embeddings.values())):
        raise PersresError(
            f"{name} has numbers that are not finite, as after a training that diverged: learn it again."
        )


def texts_of_call(asked: Mapping[str, Any]) -> dict[str, list[str]]:
    """The texts that a call reads, by the argument's name, one for each prompt. asked: what encode_prompt is given.
    Without guidance the negative ones are not read."""
    if asked.get("prompt") is None:
        raise PersresError("Residuals want to know the prompt's words: give the prompt, not its embeddings.")
    guided = asked.get("do_classifier_free_guidance", True)
    found: dict[str, list[str]] = {}
    for name, what in TEXTS.items():
        negative = name.startswith("negative")
        if asked.get(name) is None or (negative and not guided):
            continue
        texts, count = _texts_of(asked[name], what), len(found.get("prompt", ()))
        if negative and isinstance(asked[name], str):
            texts *= count
        if count and len(texts) != count:
            raise PersresError(f"{name} has {len(texts)} texts for {count} prompts: give one each.")
        found[name] = texts
    return found


def _texts_of(given: Any, what: str) -> list[str]:
    """A call's text or texts as a list."""
    texts = [given] if isinstance(given, str) else list(given) if isinstance(given, (list, tuple)) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise PersresError(f"A pipeline's {what} is a text or a list of texts, not {_short(given)}.")
    for text in texts:
        refuse_controls(text, what)
    return texts


def _short(value: object) -> str:
    return readable(repr(value), 40)
