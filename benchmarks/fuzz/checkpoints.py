"""Damaged checkpoints: a tiny model's safetensors file, its pickles, and the yaml, config and vocabulary beside it.

What is taken has to draw a picture, too.
"""

from __future__ import annotations

import functools
import io
import json
import pickle
import random
import shutil
import struct
import tempfile
import zipfile
from pathlib import Path

import safetensors.torch
import torch

from lib_persres.standalone.checkpoint import load, save_sd1
from lib_persres.standalone.generate import generate
from lib_persres.standalone.modules import AutoencoderKL, build_unet
from lib_persres.standalone.text_encoder import TextEncoder
from lib_persres.standalone.tokenizer import BOS, EOS, Tokenizer, byte_symbols

COUNT = 20_000
UNET = {
    "image_size": 4,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "attention_resolutions": [1],
    "num_res_blocks": 1,
    "channel_mult": [1],
    "num_heads": 1,
    "use_spatial_transformer": True,
    "transformer_depth": 1,
    "context_dim": 8,
}
DDCONFIG = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 8,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}
TEXT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
ODD = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**400, 1e308, float("nan"), "", "x", "\ud800", "9" * 5000, [], {}),
    *([[[[]]]], [1] * 1000, {"a": {"a": []}}, [-1], [2**62, 2**62], "F16", "U8", "../..", "/etc"),
)


@functools.cache
def files() -> dict[str, bytes]:
    """A sound model's files by name."""
    torch.manual_seed(0)
    symbols = byte_symbols()
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), BOS, EOS]
    tokenizer = Tokenizer({token: index for index, token in enumerate(tokens)}, [])
    text = TextEncoder({**TEXT, "vocab_size": len(tokens), "bos_token_id": 512, "eos_token_id": 513}, tokenizer)
    folder = Path(tempfile.mkdtemp())
    try:
        save_sd1(folder / "m.safetensors", build_unet(UNET), AutoencoderKL(DDCONFIG, 4), text, scale_factor=0.5)
        found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    finally:
        shutil.rmtree(folder)
    state = safetensors.torch.load(found["m.safetensors"])
    for name, zipped in (("zip.ckpt", True), ("legacy.ckpt", False)):
        data = io.BytesIO()
        torch.save({"state_dict": state, "global_step": 3}, data, _use_new_zipfile_serialization=zipped)
        found[name] = data.getvalue()
    return found


def MAKE(rng: random.Random, folder: Path) -> Path:
    shutil.rmtree(folder / "model", ignore_errors=True)
    (folder / "model" / "text_encoder").mkdir(parents=True)
    sound = files()
    kind = rng.choices(("m.safetensors", "zip.ckpt", "legacy.ckpt", "beside"), (8, 6, 4, 4))[0]
    beside = [name for name in sound if name.startswith("text_encoder") or name.endswith(".yaml")]
    for name in beside:
        (folder / "model" / name).write_bytes(sound[name])
    if kind == "beside":
        name = rng.choice(beside)
        (folder / "model" / name).write_bytes(_text(sound[name], name, rng))
        kind, data = "m.safetensors", sound["m.safetensors"]
    else:
        data = {"m.safetensors": _safetensors, "zip.ckpt": _zip, "legacy.ckpt": _bytes}[kind](sound[kind], rng)
    suffix = Path(kind).suffix if rng.random() < 0.95 else rng.choice((".safetensors", ".ckpt", ".bin", ".gguf"))
    path = folder / "model" / f"m{suffix}"
    path.write_bytes(data)
    return path


def USE(path: Path) -> None:
    sd = load(path, device="cpu")
    generate(sd, "a (b:1.2) [c]", seeds=[0], width=8, height=8, steps=1, guidance=2.0)


# -- mutations


def _bytes(data: bytes, rng: random.Random, first: int = 4000) -> bytes:
    """Bits, bytes and pieces changed, most of them near the beginning; or cut, or longer."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if not data:
            break
        at = rng.randrange(min(first, len(data)) if rng.random() < 0.8 else len(data))
        how = rng.randrange(7)
        if how == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, *b"()[]{}.0\x80\x95"))
        elif how == 2:
            del data[at:]
        elif how == 3:
            del data[at : at + rng.randrange(1, 64)]
        elif how == 4:
            data[at:at] = data[at : at + rng.randrange(1, 64)]
        elif how == 5:
            data[at : at + 8] = struct.pack("<q", rng.choice((-1, 0, 2**31, 2**40, 2**62, rng.randrange(1000))))
        else:
            data += bytes(rng.randrange(1, 64))
    return bytes(data)


def _odd(value, rng: random.Random, depth: int = 0):
    """The JSON value with one of its parts made odd."""
    if depth < 6 and isinstance(value, dict) and value and rng.random() < 0.92:
        name = rng.choice(list(value))
        how = rng.random()
        changed = dict(value)
        if how < 0.1:
            del changed[name]
        elif how < 0.2:
            changed[rng.choice(("", "x", "\ud800", name + "x", "__metadata__"))] = changed.pop(name)
        else:
            changed[name] = _odd(value[name], rng, depth + 1)
        return changed
    if depth < 6 and isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], _odd(value[at], rng, depth + 1), *value[at + 1 :]]
    if type(value) is int and rng.random() < 0.5:
        return value + rng.choice((-1, 1, 2, -value - 1, 10**6, 10**12, value))
    return rng.choice(ODD)


def _json(value) -> bytes:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text.encode("utf-8", "surrogatepass")


def _safetensors(data: bytes, rng: random.Random) -> bytes:
    length = int.from_bytes(data[:8], "little")
    how = rng.random()
    if how < 0.25:
        return _bytes(data, rng, 8 + length)
    if how < 0.35:
        weights = bytearray(data)
        for _ in range(rng.randrange(1, 50)):  # of the numbers, which then may be anything
            at = rng.randrange(8 + length, len(data) - 1)
            weights[at : at + 2] = rng.choice((b"\xff\x7b", b"\x00\x7c", b"\x00\x7e", rng.randbytes(2)))
        return bytes(weights)
    if how < 0.42:
        return struct.pack("<Q", rng.choice((0, 1, 2, 2**40, 2**63, length - 1, length + 1))) + data[8:]
    header = json.loads(data[8 : 8 + length])
    for _ in range(rng.choice((1, 1, 3))):
        header = _odd(header, rng)
    if how > 0.97:
        text = b"[" * 100_000 if rng.random() < 0.5 else b'{"a":' * 50_000
    else:
        text = _json(header)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _zip(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return _bytes(data, rng, len(data))
    out = io.BytesIO()
    deflated = rng.random() < 0.03
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("data.pkl"):
                content = _pickle(content, rng)
            elif rng.random() < 0.004:
                content = rng.choice((b"", content[:-1], content * 2, bytes(1000)))
            new.writestr(entry.filename, content, zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED)
    return out.getvalue()


class _Called:
    """A pickle that calls something when it is opened."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def _pickle(content: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.85:
        return _bytes(content, rng, len(content))
    storage = torch.zeros(1)
    made = (
        {"a": _Called(exec, "raise SystemExit('code in a pickle was run')")},
        {"state_dict": _Called(torch.FloatTensor, 10**12)},
        {"state_dict": {1: 2}, 768: [{}]},
        {"string_to_param": {"*": 1}},
        [[[]]],
        {"state_dict": {"model.diffusion_model.x": list(range(100))}},
        {"state_dict": {b"bytes": "text"}},
        {"a": float("nan"), "b": -(2**70)},
        storage.tolist(),
    )
    return pickle.dumps(rng.choice(made), protocol=2)


def _text(data: bytes, name: str, rng: random.Random) -> bytes:
    """A yaml, a JSON or the list of merges."""
    if rng.random() < 0.3:
        return _bytes(data, rng, len(data))
    if name.endswith(".json"):
        return _json(_odd(json.loads(data), rng))
    if name.endswith(".yaml"):
        import yaml

        how = rng.random()
        if how < 0.1:
            levels = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]\n" for i in range(9))
            return (levels + data.decode().replace("version: text_encoder", "version: *a8")).encode()
        if how < 0.15:
            return rng.choice((b"[" * 50_000, b"a: " + b"1" * 6000, b"{" * 2000, b"\xff\xfe", b"!!python/object:o {}"))
        return _json(_odd(yaml.safe_load(data), rng))  # JSON is YAML
    lines = data.decode().splitlines()
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(("a b", "a b c", "a", "\x00 \x01", "#version", "é ñ")))
    return "\n".join(lines).encode()
