"""Reading .safetensors files of any origin: with `read`, never mapped.

A mapped file that another process writes over kills the one that looks at it (SIGBUS). What is cheap is looked at
first: the kind of the file, its size, its header, the tensors' shapes, and only then their bytes.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from functools import cached_property
from json import JSONDecodeError
from typing import Any

import torch

from . import strict_json
from .errors import PersresError, first_line, readable
from .regular_files import open_regular

MAX_HEADER = 4 << 20
"""Bytes; that of a residual of a whole UNet has 200 kB."""
AT_ONCE = 16 << 10
"""Bytes that are read first: the header of most residuals."""
METADATA = "__metadata__"
_METADATA_FIRST = f'{{"{METADATA}":'
FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}


@dataclass(frozen=True)
class Place:
    """Where a tensor is: bytes `begin` to `end` of the file, values of one of FLOATS or another kind."""

    kind: str
    shape: tuple[int, ...]
    begin: int
    end: int


class TensorFile:
    """An open file. PersresError with a reason alone where it is none, or damaged; who knows the path names it.

    strings: the header's metadata. places: its tensors, whose bytes are not read before `tensor` is called.
    """

    def __init__(self, path: str | os.PathLike[str], limit: int):
        try:
            self._file = open_regular(path)
        except FileNotFoundError as error:
            raise PersresError("there is no such file") from error
        try:
            status = os.fstat(self._file.fileno())
            self._size, self._changed = status.st_size, status.st_mtime_ns
            if self._size > limit:
                raise PersresError(f"it is larger than {limit >> 20} MiB")
            self._begin, self._text = self._header()
            self.strings = _strings(self._metadata(), self._text)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def names(self) -> list[str]:
        return sorted(self._whole_header.keys() - {METADATA})

    def _header(self) -> tuple[int, str]:
        """Where the tensors begin, and what is written before."""
        first = self._file.read(AT_ONCE) or b""
        if first[8:9] != b"{":
            # only now: a sound file may begin with these bytes too, which are then the length of its header
            if first.startswith((b"\x80", b"PK")):
                raise PersresError(
                    "it is a pickle (.ckpt, .pt), which can run code when opened, and only safetensors is read"
                )
            raise PersresError("it is not a safetensors file")
        (length,) = struct.unpack("<Q", first[:8])
        if length > min(MAX_HEADER, self._size - 8):
            raise _damaged(f"its header would have {length} bytes")
        text = first[8 : 8 + length]
        if len(text) < length:
            text += self._read(length - len(text))
        try:
            return 8 + length, text.decode()
        except UnicodeDecodeError as error:
            raise _damaged("its header is no Unicode") from error

    def _metadata(self) -> object:
        if self._text.startswith(_METADATA_FIRST):  # as everyone writes it: what comes behind can wait
            try:
                return strict_json.decode_start(self._text, len(_METADATA_FIRST))
            except ValueError as error:
                raise _damaged(f"its header is not sound JSON: {_why(error)}") from error
        return self._whole_header.get(METADATA, {})

    @cached_property
    def _whole_header(self) -> dict[str, Any]:
        try:
            header = strict_json.decode(self._text)
        except ValueError as error:
            raise _damaged(f"its header is not sound JSON: {_why(error)}") from error
        if not isinstance(header, dict):
            raise _damaged("its header is no JSON object")
        return header

    def places(self) -> dict[str, Place]:
        """By name. The tensors fill the file: none overlaps another, and nothing is between or behind them."""
        places = {}
        for name in self.names:
            _check_text(name)
            places[name] = _place(name, self._whole_header[name], self._begin)
        at = self._begin
        for name, place in sorted(places.items(), key=lambda item: (item[1].begin, item[1].end)):
            if place.begin != at:
                raise _damaged(f"{_shown(name)} does not begin where the tensor before it ends")
            at = place.end
        if at != self._size:
            raise _damaged(f"it should have {at} bytes and has {self._size}")
        return places

    def tensor(self, place: Place) -> torch.Tensor:
        """The values of a floating kind, in memory of their own."""
        self._file.seek(place.begin)
        data = self._read(place.end - place.begin)
        kind = FLOATS[place.kind]
        return torch.frombuffer(data, dtype=kind).reshape(place.shape) if data else torch.empty(place.shape, dtype=kind)

    def check_unchanged(self) -> None:
        """PersresError where another process wrote into the file since it was opened."""
        status = os.fstat(self._file.fileno())
        if (status.st_size, status.st_mtime_ns) != (self._size, self._changed):
            raise PersresError("it was written over while it was read, try again")

    def _read(self, count: int) -> bytearray:
        data = bytearray(count)
        left = memoryview(data)
        while left:
            read = self._file.readinto(left)
            if not read:
                raise PersresError("it was cut short while it was read, try again")
            left = left[read:]
        return data


def _damaged(reason: str) -> PersresError:
    return PersresError(f"it is damaged or was cut short ({reason}), copy or download it again")


def _why(error: ValueError) -> str:
    """Ours; Python's own tell a line and a column, which a header does not have."""
    return "it cannot be read" if isinstance(error, JSONDecodeError) else first_line(error)


def _strings(given: object, header: str) -> dict[str, str]:
    if not isinstance(given, dict) or not set(map(type, given.values())) <= {str}:
        raise _damaged("its metadata are no texts")
    if "\\u" in header:  # nothing else makes a lone surrogate
        for text in (*given, *given.values()):
            _check_text(text)
    return given


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _damaged("a text in its header is no Unicode") from error


def _place(name: str, entry: Any, base: int) -> Place:
    try:
        kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        sound = len(entry) == 3 and isinstance(kind, str) and isinstance(shape, list) and len(shape) <= 8
        sound = sound and all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    except (TypeError, ValueError, KeyError):
        sound = False
    if not sound or end < begin:
        raise _damaged(f"its header describes {_shown(name)} wrongly")
    if kind in FLOATS and math.prod(shape) * FLOATS[kind].itemsize != end - begin:
        raise _damaged(f"{_shown(name)} has not the bytes that its shape asks for")
    return Place(kind, tuple(shape), base + begin, base + end)


def _shown(name: str) -> str:
    return readable(name, 80)
