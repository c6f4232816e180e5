"""The tensors of a .safetensors file, known by name and shape before any is read.

Not safetensors' own reader: it maps the file, and a file that is cut short meanwhile then kills the process.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedReader

import torch

from lib_persres.errors import PersresError

LONGEST_HEADER = 25_000_000
"""Bytes; that of an SD1 checkpoint has 0.2 million."""
DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8},
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Stored:
    """A tensor in a file. read() gives one that shares no memory, on the CPU. dtype: None where torch has none."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None
    read: Callable[[], torch.Tensor]


def read_header(file: BufferedReader, path) -> tuple[dict[str, Stored], dict[str, str]]:
    """The tensors by name, in the file's order, and its metadata. The file stays open for them to be read.

    The layout: 8 bytes with the header's length, the header in JSON, the tensors' bytes, without gaps.
    """
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, LONGEST_HEADER):
        raise PersresError(f"{path} is not a safetensors file, or it is truncated: download it again.")
    try:
        header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", None) or {}
        spans = {name: _span(entry) for name, entry in header.items()}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise PersresError(f"{path} is not a safetensors file: its header cannot be read.") from error
    start, end = 8 + length, 0
    stored = {}
    for name, (dtype, shape, first, last) in sorted(spans.items(), key=lambda item: item[1][2:]):
        known = DTYPES.get(dtype)
        if first != end or last < first or (known and last - first != math.prod(shape) * known.itemsize):
            raise PersresError(f"{path} is damaged: its header gives {name} a wrong place or size. Download it again.")
        stored[name] = Stored(shape, known, _reader(file, start + first, known, shape, name, path))
        end = last
    if size != start + end:
        what = "truncated" if size < start + end else "damaged"
        raise PersresError(f"{path} is {what}, {size} of {start + end} bytes: download it again.")
    return stored, metadata if isinstance(metadata, dict) else {}


def _span(entry: dict) -> tuple[str, tuple[int, ...], int, int]:
    dtype, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not isinstance(shape, list):
        raise TypeError("not a tensor")
    if any(type(number) is not int or not 0 <= number < 1 << 48 for number in (*shape, first, last)):
        raise ValueError("an impossible number")
    return dtype, tuple(shape), first, last


def _reader(
    file: BufferedReader, start: int, dtype: torch.dtype | None, shape: tuple[int, ...], name: str, path
) -> Callable[[], torch.Tensor]:
    def read() -> torch.Tensor:
        if dtype is None:
            raise PersresError(f"{path} stores {name} in a type that this torch does not have: take another copy.")
        tensor = torch.empty(shape, dtype=dtype)
        target = tensor.reshape(-1).view(torch.uint8).numpy()
        try:
            file.seek(start)
            whole = file.readinto(memoryview(target)) == target.nbytes
        except OSError as error:
            raise PersresError(f"{path} cannot be read: {error.strerror or error}.") from error
        if not whole:
            raise PersresError(f"{path} was cut short while it was read: download it again.")
        return tensor

    return read
