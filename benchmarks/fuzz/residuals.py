"""Residual files and the notes beside them: from a sound one, damaged in every way that a file, a header or a number
can be."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import struct
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch

from lib_persres.errors import PersresError
from lib_persres.names import one_form
from lib_persres.residual import Residual, concept_of
from lib_persres.webui.cards.notes import read_notes

COUNT = 100_000

HEADER = {
    **{"format": "persres", "format_version": "1", "concept": "rex", "identifier": "olis", "macro_class": "dog"},
    **{"base_family": "SD1", "targets": "proj_out", "rank": "0.05m", "steps": "150", "seed": "7"},
    **{"recipe": '{"name": "paper", "stages": [{"steps": 150}]}', "loss": '{"first": 0.2, "last": 0.1}'},
    **{"image_hashes": '["00", "11"]', "truncation": "0.5", "note": "from afar"},
}
SHAPES = {"a.down": [2, 8], "a.up": [8, 2], "b.down": [1, 4], "b.up": [4, 1], "embedding.olis": [2, 4]}
SIZES = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8, "I32": 4, "BOOL": 1, "U8": 1}
# JSON text, so that what no value of Python is can be written, too
RAW = (
    *("null", "true", "-1", "0", "1e999", "-1e999", "NaN", "Infinity", "1" * 401, "9" * 5000, "1e-400", "0.5"),
    *("[]", "{}", '""', '" "', '"\\ud800"', '"\\u0000"', '"' + "x" * 2000 + '"', "[1, 2, 3]", '"F16"', "[[2, 8]]"),
    *("18446744073709551615", "9223372036854775808", "4294967296"),
    *("[" * 400 + "]" * 400, "[" * 50_000, '{"a":' * 200 + "1" + "}" * 200),
)
TEXTS = (
    *("", " ", "[" * 200, "a b", "AND", "\x00", "\ud800", "é", "e\u0301", "हिन्दी", "x" * 3000, "../../x"),
    *("\u200b", "0", "1", "2", "many", "{", "[]", "null", "NaN", "1e999", '{"a": NaN}', '{"a": "\\ud800"}'),
    *("9" * 5000, "[" * 3000, '{"a":' * 100 + "1" + "}" * 100, "[1]", '["\\udfff"]', '{"a": 1' + "0" * 400 + "}"),
    *("<persres:x>", "proj_out+proj_out", "kv"),
)
OTHERS = (b"", b"x", b"\x80\x04N.", b"PK\x03\x04" + b"\0" * 60, b"\x89PNG" + b"\0" * 60, b"<html>", b"\0" * 99)
ODD_SHAPES = ([], [0], [16], [1, 16], [4, 4], [2, 8, 1], [65537, 1], [2**32, 2**32], [0, 8])


def MAKE(draw: random.Random, folder: Path) -> Path:
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    if draw.random() < 0.1:
        return _notes(draw, folder / "rex.json")
    path = folder / draw.choice(["rex.safetensors", "rex.safetensors", os.fsdecode(b"r\xe9x.safetensors")])
    if draw.random() < 0.03:
        return _no_file(draw, path)
    header, values = {name: dict(entry) for name, entry in _sound(draw).items()}, draw.choice([0.5, 0.5, -3.0])
    changes: list[Callable] = draw.choices([_field, _entry, _layout, _nothing], [4, 4, 3, 1], k=draw.choice([1, 1, 2]))
    raw: list[str] = []
    for change in changes:
        change(draw, header, raw)
    size = max((e["data_offsets"][1] for n, e in header.items() if _plain(n, e)), default=0)
    data = _values(draw, header, bytearray(min(size, 4096)), values)
    text = json.dumps(header, separators=draw.choice([(",", ":"), (", ", ": ")]))
    for index, json_text in enumerate(raw):
        text = text.replace(f'"@{index}@"', json_text, 1)
    text = text.encode("utf-8", "surrogatepass")
    path.write_bytes(_bytes(draw, struct.pack("<Q", len(text)) + text + data))
    return path


def USE(path: Path) -> None:
    """Read in each way that there is; what one takes the others take, and it can be written as JSON and to the disk."""
    if path.suffix == ".json":
        notes, problem = read_notes(path)
        json.dumps([notes, problem], ensure_ascii=False, allow_nan=False).encode()
        return
    concept = concept_of(path)
    concept.encode()
    residual = Residual.load(path)
    outline, metadata = Residual.outline(path), Residual.read_metadata(path)
    assert metadata == residual.metadata == outline.metadata and metadata.concept == concept
    json.dumps(asdict(metadata), ensure_ascii=False, allow_nan=False).encode()
    theirs = safetensors.torch.load(path.read_bytes())
    ours, outlined = residual._tensors(), outline._tensors()
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: t.shape for n, t in outlined.items()}
    assert all(torch.equal(ours[one_form(name)], tensor.float()) for name, tensor in theirs.items())
    try:
        residual.save(path.with_name("again.safetensors"))
    except PersresError as error:
        assert "too large for torch.float16" in str(error)


# -- what is wrong with them


def _sound(draw: random.Random) -> dict[str, dict]:
    header, at = {"__metadata__": dict(HEADER)}, 0
    kind = draw.choice(["F16", "F16", "BF16", "F32", "F64"])
    for name, shape in SHAPES.items():
        if name.startswith("embedding") and draw.random() < 0.5:
            continue
        end = at + shape[0] * shape[1] * SIZES[kind]
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    return header


def _plain(name: str, entry: object) -> bool:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) and name != "__metadata__" else None
    return isinstance(offsets, list) and len(offsets) == 2 and all(type(n) is int and n >= 0 for n in offsets)


def _nothing(draw, header, raw) -> None:
    """A sound file."""


def _field(draw: random.Random, header: dict, raw: list[str]) -> None:
    """A field of the metadata says something else, or is no text, or is not there."""
    fields = header.get("__metadata__")
    if not isinstance(fields, dict) or not fields:
        return
    name = draw.choice([*fields, "preview", "created", "new"])
    kind = draw.random()
    if kind < 0.6:
        fields[name] = draw.choice(TEXTS)
    elif kind < 0.8:
        fields[name] = draw.choice(RAW)
    elif kind < 0.9:
        fields[name] = _raw(draw, raw)
    else:
        fields.pop(name, None)


def _entry(draw: random.Random, header: dict, raw: list[str]) -> None:
    """A part of a tensor's entry, an entry, or all metadata are something else."""
    name = draw.choice(list(header))
    if draw.random() < 0.2 or not isinstance(header[name], dict) or not header[name]:
        header[name] = _raw(draw, raw)
        return
    part = draw.choice(list(header[name]))
    value = header[name][part]
    if isinstance(value, list) and value and draw.random() < 0.6:
        value[draw.randrange(len(value))] = draw.choice([_raw(draw, raw), draw.randrange(-2, 70), 2**40, True])
    elif draw.random() < 0.3:
        del header[name][part]
    else:
        header[name][part] = _raw(draw, raw)


def _layout(draw: random.Random, header: dict, raw: list[str]) -> None:
    """Tensors of other names, kinds and shapes; some overlap, lack their other half, or leave gaps."""
    tensors = [name for name, entry in header.items() if _plain(name, entry)]
    if not tensors:
        return
    name = draw.choice(tensors)
    what = draw.randrange(6)
    if what == 0:
        other = ("x", "", "a", ".down", "embedding.", "lora_down", "a.down.up", "\ud800.down", "embedding.e\u0301")
        header[draw.choice(other)] = header.pop(name)
    elif what == 1:
        header[name]["dtype"] = draw.choice([*SIZES, "F8_E4M3", "F99", ""])
    elif what == 2:
        header[name]["shape"] = list(draw.choice(ODD_SHAPES))
    elif what == 3:
        header.pop(name)
    elif what == 4:
        header[name]["data_offsets"] = list(header[draw.choice(tensors)]["data_offsets"])
    else:
        shift = draw.choice([-8, -1, 1, 8, 2**40])
        header[name]["data_offsets"] = [max(0, offset + shift) for offset in header[name]["data_offsets"]]


def _raw(draw: random.Random, raw: list[str]) -> str:
    raw.append(draw.choice(RAW))
    return f"@{len(raw) - 1}@"


def _values(draw: random.Random, header: dict, data: bytearray, value: float) -> bytes:
    """The tensors' bytes: this value, and sometimes one that no model computes with."""
    kinds = {entry["dtype"] for name, entry in header.items() if _plain(name, entry) and "dtype" in entry}
    kind = kinds.pop() if len(kinds) == 1 else None
    form = {"F16": "<e", "F32": "<f", "F64": "<d"}.get(kind if isinstance(kind, str) else None)
    if form is None:
        return bytes(data)
    number = struct.pack(form, value)
    data[:] = (number * (len(data) // len(number) + 1))[: len(data)]
    if draw.random() < 0.2 and len(data) >= 8:
        odd = draw.choice([float("nan"), float("inf"), -float("inf"), 65504.0, 60000.0, 1e30 if form != "<e" else 0.0])
        data[: len(number)] = struct.pack(form, odd)
    return bytes(data)


def _bytes(draw: random.Random, data: bytes) -> bytes:
    """Bits, cuts, and other lengths; two of three times none."""
    what = draw.random()
    if what < 0.66 or not data:
        return data
    data = bytearray(data)
    if what < 0.8:
        for _ in range(draw.choice([1, 1, 2, 8])):
            # the header is what matters most
            at = draw.randrange(len(data)) if draw.random() < 0.5 else draw.randrange(min(len(data), 400))
            data[at] ^= 1 << draw.randrange(8)
    elif what < 0.88:
        del data[draw.randrange(len(data)) :]
    elif what < 0.92:
        data += draw.randbytes(draw.choice([1, 8, 1000]))
    elif what < 0.97:
        lengths = [0, 1, 8, 2**20, 2**31, 2**63, 2**64 - 1, len(data), max(0, len(data) - 8), draw.randrange(2000)]
        length = draw.choice(lengths)
        data[:8] = struct.pack("<Q", length)
    else:
        start = draw.randrange(len(data))
        data[start:start] = data[draw.randrange(len(data)) :][: draw.choice([1, 8, 100])]
    return bytes(data)


def _no_file(draw: random.Random, path: Path) -> Path:
    """Something else under a residual's name."""
    what = draw.randrange(5)
    if what == 0:
        path.mkdir()
    elif what == 1 and hasattr(os, "mkfifo"):
        os.mkfifo(path)
    elif what == 2:
        path.symlink_to(path.name)
    elif what == 3:
        path.write_bytes(pickle.dumps({"a": [1]}))
    else:
        path.write_bytes(draw.choice(OTHERS))
    return path


def _notes(draw: random.Random, path: Path) -> Path:
    known = ("description", "notes", "activation text", "preferred weight", "sd version", "\\ud800")
    pairs = [f'"{draw.choice(known)}": {draw.choice([*RAW, json.dumps("V* dog")])}' for _ in range(draw.randrange(4))]
    text = draw.choice(["{" + ", ".join(pairs) + "}"] * 4 + [draw.choice(RAW)])
    path.write_bytes(_bytes(draw, text.encode()))
    return path
