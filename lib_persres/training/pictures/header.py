"""What is known of a picture before it is decoded."""

from __future__ import annotations

from dataclasses import dataclass


class Damaged(ValueError):
    """Why a picture cannot be read, for the inside of a sentence."""


@dataclass
class Header:
    """kind: the format by Pillow's name. data: the file as a decoder gets it, without what does not draw."""

    kind: str
    width: int
    height: int
    data: bytes
    memory: int
    """Bytes that decoding takes at most, beside the file."""
    orientation: int = 1
    """As in EXIF, 1 to 8; 1 is upright."""
    profile: bytes | None = None
    """The colour profile, however broken."""
    highest: int | None = None
    """The value of white in grey of more than 8 bits; None: as the decoder's mode has it."""
    transparent: int | tuple[int, ...] | None = None
    """The grey or the colour that stands for nothing."""
    shrinks: bool = False
    """Whether the decoder itself can make it smaller (JPEG's draft mode)."""
