"""A LoRA file as a residual in memory: what it changes of the UNet, and the words by which LAG finds its thing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from ..errors import PersresError
from ..metadata import FORMAT, Metadata
from ..names import one_form
from ..prompt import Tag, has_word
from ..residual import MAX_FILE, Factors, Residual
from ..residual_folder import Reader
from ..targets import EVERY, LAYERED, canonical
from ..tensor_file import TensorFile
from .read import NOTHING, Lora, is_lora, outline_lora, read_lora
from .text_part import TextFactors

LONGEST_WORD, MOST_WORDS = 60, 100
"""Characters of a trigger word that is looked for in prompts, and how many such words."""
JOINT = "\n"
"""Between the words of a file, none of which has it."""

MOST_OF_A_TAG = 1e15
"""Training pictures that a header may count; what is no number of pictures says nothing."""


@dataclass(eq=False)
class Adapter(Residual):
    """words: what its header calls its triggers, the likeliest first. notes: sentences on what is left out of it. text:
    what it changes of the text encoders, see `text_part`.
    """

    words: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    text: dict[str, dict[str, Factors]] = field(default_factory=dict)

    partial: ClassVar[bool] = True

    @classmethod
    def of(cls, lora: Lora, name: str) -> Adapter:
        facts = Metadata(
            concept=one_form(name)[:100],
            base_family=lora.family,
            targets=rule_of(lora.unet),
            rank=str(lora.rank),
            created="",
            library_version="",
        )
        factors = {path: each for path, each in lora.unet.items() if each is not NOTHING}
        return cls(factors, facts, {}, trigger_words(lora.strings), lora.notes, lora.text)


def load_file(path: Path) -> Residual:
    """A residual or a LoRA file. PersresError: one sentence that names the file."""
    return Adapter.of(read_lora(path), path.stem) if _is_lora(path) else Residual.load(path)


def outline_file(path: Path) -> Residual:
    """The same without its numbers: of a LoRA no factors at all."""
    return Adapter.of(outline_lora(path), path.stem) if _is_lora(path) else Residual.outline(path)


def metadata_of_file(path: Path) -> Metadata:
    """What its header says."""
    return outline_file(path).metadata if _is_lora(path) else Residual.read_metadata(path)


def reader() -> Reader:
    """Of folders that have both."""
    return Reader(load_file, outline_file, metadata_of_file)


def _is_lora(path: Path) -> bool:
    try:
        with TensorFile(path, MAX_FILE) as file:
            return file.strings.get("format") != FORMAT and is_lora(file.names)
    except (PersresError, OSError):
        return False  # reading it as a residual says why


def word_in(residual: Residual, prompt: str, tag: Tag, kept: Sequence[str] = ()) -> str:
    """The words of a prompt that the mask of a file without an identifier of its own is of, joined by JOINT; ""
    where nobody knows: the tag's own, else the first in the prompt of the user's (`kept`), the triggers, and the
    file's name as the tag has it.
    """
    if residual.metadata.identifier:
        return ""
    if tag.word:
        return JOINT.join(map(_read, tag.word.split("+")))
    words = residual.words if isinstance(residual, Adapter) else ()
    known = map(_read, (*kept, *words, tag.name.rpartition("/")[2], residual.metadata.concept))
    prompt = _read(prompt)
    return next((word for word in known if has_word(prompt, word)), "")


def _read(text: str) -> str:
    """As a text encoder reads it: the brackets of "cat \\(animal\\)" are no emphasis."""
    return re.sub(r"\\([()\[\]\\])", r"\1", text)


def called(residual: Residual, word: str) -> Metadata:
    """What is known of it where these are its words."""
    facts = residual.metadata
    return facts if facts.identifier or not word else replace(facts, identifier=word.partition(JOINT)[0])


def more_words(word: str) -> list[str]:
    """Those behind the first."""
    return word.split(JOINT)[1:]


def word_problems(residual: Residual, tag: Tag) -> list[str]:
    """Sentences on a file and its tag's word."""
    told = [f"{tag.text}: {note}" for note in (residual.notes if isinstance(residual, Adapter) else ())]
    if tag.word and residual.metadata.identifier:
        own = residual.metadata.identifier
        told.append(f'word= in {tag.text} says nothing: the file has a word of its own, "{own}"; write V* for it.')
    return told


def text_of(residual: Residual, tag: Tag, confined: bool) -> TextFactors:
    """What acts of it on the text encoders: all of it where the tag says so, nothing where it says no, and else all of
    it unless LAG confines the file, since words are of the whole picture."""
    if not isinstance(residual, Adapter) or not (tag.reads or (tag.reads is None and not confined)):
        return {}
    return residual.text


def text_problems(residual: Residual, tag: Tag, confined: bool, unknown: int = 0) -> list[str]:
    """A sentence where LAG leaves out what is for the text encoders and nobody asked for that. unknown: how many layers
    of it the model's text encoders have not."""
    if unknown:
        return [f"{tag.text}: {unknown} layers of its part for the text encoder are left out: this model has no such."]
    if tag.reads is not None or not confined or not isinstance(residual, Adapter) or not residual.text:
        return []
    return [
        f"{tag.text}: what it changes of the text encoder is of the whole picture, so LAG leaves that out; text=on in "
        "the tag keeps it."
    ]


def rule_of(paths: Mapping[str, object]) -> str:
    """A rule that picks all of these modules, and as little besides as rules can say."""
    parts = set()
    for path in paths:
        inside = path.partition(".transformer_blocks.")[2].partition(".")[2]
        attention, _, end = inside.partition(".")
        if path.endswith((".proj_in", ".proj_out")):
            parts.add(path.rpartition(".")[2])
        elif attention == "attn2" and end in LAYERED["kv"][1]:
            parts.add("kv")
        elif attention in LAYERED and end:
            parts.add(attention)
        else:
            parts.add(EVERY)
    return canonical("+".join(parts or {EVERY}))


def trigger_words(strings: Mapping[str, str]) -> tuple[str, ...]:
    """What a file's header says of its triggers: the phrase of modelspec, and the names of kohya's training folders
    ("10_sks dog") and their most frequent tags."""
    found = [part for part in strings.get("modelspec.trigger_phrase", "").split(",")]
    try:
        folders = json.loads(strings.get("ss_tag_frequency", "{}"))
    except (ValueError, RecursionError):
        folders = {}
    tags: dict[str, float] = {}
    for folder, counts in folders.items() if isinstance(folders, dict) else ():
        number, _, words = str(folder).partition("_")
        found.append(words if number.isdecimal() else str(folder))
        for tag, count in counts.items() if isinstance(counts, dict) else ():
            if type(count) in (int, float) and 0 < count < MOST_OF_A_TAG:
                tags[str(tag)] = tags.get(str(tag), 0) + count
    found += sorted(tags, key=lambda tag: -tags[tag])[:1]
    said = (" ".join(words.split()) for words in found)
    fit = dict.fromkeys(word for word in said if 0 < len(word) <= LONGEST_WORD and word.isprintable())
    return tuple(fit)[:MOST_WORDS]
