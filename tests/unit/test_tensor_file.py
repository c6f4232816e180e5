"""Safetensors files are read, not mapped, and cheap checks come before costly ones."""

import json
import os
import struct

import pytest
import safetensors.torch
import torch
from residual_samples import DOWN, HEADER, refusal, tensors, write

from lib_persres.errors import PersresError
from lib_persres.residual import Residual
from lib_persres.tensor_file import MAX_HEADER, TensorFile


def test_it_reads_what_safetensors_reads(path):
    for kind in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        write(path, {name: tensor.to(kind) * 0.3 for name, tensor in tensors(rank=3).items()})
        theirs = safetensors.torch.load(path.read_bytes())
        with TensorFile(path, 1 << 20) as file:
            ours = {name: file.tensor(place) for name, place in file.places().items()}
            assert file.strings == HEADER
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert all(ours[name].dtype == kind for name in ours)


def test_blanks_in_a_header_change_nothing(path):
    write(path, tensors())
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.dumps(json.loads(data[8 : 8 + length]), indent=2).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])
    assert Residual.load(path).metadata.concept == Residual.read_metadata(path).concept == "rex"


def test_a_file_that_is_cut_while_it_is_read_gives_a_sentence(path):
    write(path, tensors())
    with TensorFile(path, 1 << 20) as file:
        places = file.places()
        os.truncate(path, path.stat().st_size - 8)  # a mapped file would end the process
        with pytest.raises(PersresError, match="cut short while it was read"):
            for place in places.values():
                file.tensor(place)


def test_a_file_that_is_written_over_while_it_is_read_gives_a_sentence(path, monkeypatch):
    write(path, tensors())
    original = TensorFile.tensor

    def write_over(self, place):
        os.utime(path, ns=(1, 1))
        return original(self, place)

    monkeypatch.setattr(TensorFile, "tensor", write_over)
    assert "written over while it was read" in refusal(path)


def test_no_file_is_mapped(path, monkeypatch):
    write(path, tensors())
    import mmap

    def refuse(*_, **__):
        raise AssertionError("mapped")

    monkeypatch.setattr(mmap, "mmap", refuse)
    monkeypatch.setattr(torch.UntypedStorage, "from_file", refuse)
    monkeypatch.setattr("safetensors.safe_open", refuse)
    for read in (Residual.load, Residual.outline, Residual.read_metadata):
        assert read(path)


def test_nothing_of_the_tensors_is_read_before_the_header_is_sound(path, monkeypatch):
    monkeypatch.setattr(TensorFile, "tensor", lambda *_: pytest.fail("a tensor was read"))
    ones = torch.ones
    for changes in ({"up": None}, {"down": ones(2, 8).int()}, {"stray": ones(1)}, {"down": ones(2, 8, 1)}):
        refusal(write(path, tensors(**changes)))
    refusal(write(path, tensors(), {**HEADER, "identifier": " "}))
    refusal(write(path, tensors(), {"format": "pt"}))


def test_a_header_that_would_take_gigabytes_is_not_read(path):
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER + 1) + b"{")
        file.truncate(MAX_HEADER * 2)
    assert f"its header would have {MAX_HEADER + 1} bytes" in refusal(path)


SHAPES = (16, "28", [2.0, 8], [True, 16], [-2, -8], [[2, 8]], [1] * 100_000)
OFFSETS = ([0], [64, 0], "ab", [0, 64, 128], {"a": 1, "b": 2}, [0.0, 64.0], None)


@pytest.mark.parametrize(
    "entry",
    [
        *(None, [], "x", {}, {"dtype": "F32", "shape": [2, 8]}),
        {"dtype": 3, "shape": [2, 8], "data_offsets": [0, 64]},
        *({"dtype": "F32", "shape": shape, "data_offsets": [0, 64]} for shape in SHAPES),
        *({"dtype": "F32", "shape": [2, 8], "data_offsets": offsets} for offsets in OFFSETS),
    ],
)
def test_a_tensors_entry_of_other_types_is_refused(path, entry):
    text = json.dumps({"__metadata__": HEADER, DOWN: entry}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))
    assert "describes input_blocks.1.1.proj_out.down wrongly" in refusal(path)
