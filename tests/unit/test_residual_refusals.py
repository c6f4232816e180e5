"""Files that are no residual, or a damaged one: each is refused in a sentence and nothing in it is run."""

import base64
import json
import os
import pickle
import struct
import zipfile

import pytest
import torch
from residual_samples import DOWN, HEADER, PNG, UP, refusal, said, sample_residual, tensors, with_value, write

from lib_persres import residual as module
from lib_persres.errors import PersresError
from lib_persres.residual import Residual


def test_missing_file_and_folder_are_refused(tmp_path):
    assert "no such file" in refusal(tmp_path / "none.safetensors")
    assert "is a folder" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "none.safetensors", Residual.read_metadata)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


@pytest.mark.parametrize("read", [Residual.load, Residual.read_metadata])
def test_renamed_pickle_is_refused_and_never_run(path, monkeypatch, read):
    monkeypatch.chdir(path.parent)
    torch.save({"a": torch.ones(2)}, path)
    assert "pickle" in refusal(path, read)
    path.write_bytes(pickle.dumps(Bomb()))
    assert "pickle" in refusal(path, read)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    assert "pickle" in refusal(path, read)
    assert not os.path.exists("exploded")


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"<!DOCTYPE html><html>", b"version https://git-lfs.github.com/spec/v1\n", b"\0" * 100],
)
def test_other_files_are_refused(path, data):
    path.write_bytes(data)
    assert "not a safetensors file" in refusal(path)


@pytest.mark.parametrize("read", [Residual.load, Residual.read_metadata])
def test_truncated_file_is_refused_at_every_length(residual, path, read):
    residual.save(path)
    data = path.read_bytes()
    for length in [9, 50, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:length])
        assert "cut short" in refusal(path, read)


def test_damaged_header_is_refused(path):
    write(path, tensors())
    data = path.read_bytes()
    for damaged in (
        data[:8] + b"{" * 20 + data[28:],
        struct.pack("<Q", 2**63) + data[8:],
        data[:8] + data[8:].replace(b"F32", b"F99"),
        data[:8] + data[8:].replace(b"[2,8]", b"[3,8]"),
        data[:8] + data[8:].replace(b"[2,8]", b"[-1,8]"),
        data + b"more",
    ):
        assert damaged != data
        path.write_bytes(damaged)
        assert "damaged" in refusal(path)


def test_file_above_the_size_limit_is_refused_before_it_is_read(path):
    with open(path, "wb") as file:
        file.truncate(module.MAX_FILE + 1)  # sparse: takes no space
    assert "larger than 1024 MiB" in refusal(path)
    assert "larger than 1024 MiB" in refusal(path, Residual.read_metadata)


@pytest.mark.parametrize(
    "name, kind",
    [
        ("lora_unet_down_blocks_0_attentions_0_proj_out.lora_down.weight", "a LoRA"),
        ("unet.down_blocks.0.attn.to_q.lora_A.weight", "a LoRA"),
        ("model.diffusion_model.input_blocks.0.0.weight", "a whole checkpoint"),
        ("emb_params", "a textual inversion embedding"),
        ("decoder.conv_in.weight", "a VAE"),
        ("x", "something else"),
    ],
)
@pytest.mark.parametrize("header", [None, {"format": "pt"}])
def test_file_without_our_metadata_is_refused_by_what_it_looks_like(path, name, kind, header):
    write(path, {name: torch.ones(2, 2)}, header)
    for read in (Residual.load, Residual.read_metadata):
        text = refusal(path, read)
        assert kind in text and "no persres metadata" in text


def test_newer_format_asks_for_an_update(path):
    write(path, {"new.kind": torch.ones(1)}, {**HEADER, "format_version": "2"})
    for read in (Residual.load, Residual.read_metadata):
        assert "version 2 and this extension knows 1, update it" in refusal(path, read)


@pytest.mark.parametrize(
    "key, text",
    [
        ("format_version", ""),
        ("format_version", "one"),
        ("format_version", "0"),
        ("format_version", "9" * 5000),
        ("recipe", "{"),
        ("recipe", "[]"),
        ("recipe", "[" * 100_000),
        ("steps", "many"),
        ("steps", "true"),
        ("steps", "9" * 5000),
        ("seed", "null"),
        ("image_hashes", "[1]"),
        ("preview", "'\"><script>"),
        ("preview", base64.b64encode(b"GIF89a").decode()),
        ("preview", base64.b64encode(PNG[:16] + struct.pack(">II", 60_000, 60_000)).decode()),
        ("recipe", '{"a": 1e999}'),
        ("recipe", '{"a": NaN}'),
        ("recipe", '{"a": ' + "1" * 401 + "}"),
        ("recipe", '{"a": "\\ud800"}'),
        ("recipe", '{"a":' * 200 + "1" + "}" * 200),
        ("loss", '{"last": Infinity}'),
        ("truncation", "1" * 401),
        ("image_hashes", '["\\udfff"]'),
        ("identifier", ""),
        ("identifier", " "),
        ("identifier", "[" * 200),
        ("concept", "a\x1b[2J"),
        ("concept", "x" * 101),
        ("base_hash", "x" * 1001),
    ],
)
def test_damaged_metadata_is_refused_by_the_name_of_the_field(path, key, text):
    write(path, tensors(), {**HEADER, key: text})
    for read in (Residual.load, Residual.read_metadata):
        sentence = refusal(path, read)
        assert {"concept": "name"}.get(key, key) in sentence and len(sentence) < len(str(path)) + 200


@pytest.mark.parametrize("key", ["concept", "identifier", "macro_class"])
def test_metadata_that_a_prompt_needs_must_be_there(path, key):
    write(path, tensors(), {name: text for name, text in HEADER.items() if name != key})
    assert f"lacks {key}" in refusal(path)


@pytest.mark.parametrize(
    "state, reason",
    [
        (tensors(up=None), f"{DOWN} comes without {UP}"),
        (tensors(down=None), f"{UP} comes without {DOWN}"),
        (tensors(down=torch.ones(2, 8, 1, 1)), "not a matrix"),
        (tensors(up=torch.ones(8)), "not a matrix"),
        (tensors(up=torch.ones(8, 3)), "rank 2 in down and 3 in up"),
        (tensors(rank=0), "rank 0 where 1 to 8"),
        (tensors(rank=9), "rank 9 where 1 to 8"),
        (tensors(down=with_value(float("nan"))), "not finite"),
        (tensors(down=with_value(float("-inf")).half()), "not finite"),
        (tensors(down=with_value(1e30).double() ** 2), "not finite"),
        (tensors(down=with_value(1e30)), "up to 1e+30, which no model in fp16 can take"),
        (tensors(down=with_value(65536.0)), "no model in fp16 can take"),
        (tensors(down=with_value(60000.0)), "change weights of input_blocks.1.1.proj_out by up to 6e+04"),
        (tensors(down=torch.ones(1, 65537), up=torch.ones(8, 1)), "absurd"),
        (tensors(down=torch.ones(2, 8, dtype=torch.int32)), "I32"),
        (tensors(down=torch.ones(2, 8, dtype=torch.bool)), "BOOL"),
        (tensors(stray=torch.ones(1)), "stray is not a residual's tensor"),
        ({"down": torch.ones(1, 8), "up": torch.ones(8, 1)}, "not a residual's tensor"),
        (tensors(**{"embedding.olis": torch.ones(1, 2, 3)}), "embedding.olis"),
        (tensors(**{"embedding.olis": torch.full((4,), float("nan"))}), "embedding.olis"),
        ({}, "no factors and no embedding"),
    ],
)
def test_wrong_tensors_are_refused(path, state, reason):
    text = refusal(write(path, state))
    assert reason in text
    Residual.read_metadata(path)  # the header is sound


def test_metadata_is_read_without_the_tensors(path):
    write(path, tensors(down=with_value(float("nan"))))
    assert Residual.read_metadata(path).concept == "rex"


def test_a_learned_word_has_no_more_vectors_than_a_prompt_has_tokens(tmp_path):
    path = tmp_path / "many.safetensors"
    with pytest.raises(PersresError, match="not a vector or a few"):
        Residual({}, said(), {"olis": torch.zeros(76, 8)}).save(path)
    assert not path.exists()


@pytest.mark.parametrize("read", [Residual.load, Residual.outline, Residual.read_metadata])
def test_a_name_that_stands_twice_in_the_header_is_refused(path, read):
    """Python takes the last of two equal names, other readers the first: nobody knows which is meant."""
    write(path, tensors())
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + length].decode().rstrip(), data[8 + length :]
    entry = json.dumps({UP: json.loads(header)[UP]})[1:-1]
    metadata = json.dumps({"__metadata__": HEADER})[1:-1]
    for twice in (
        header[:-1] + f", {entry}}}",
        header[:-1] + f", {metadata}}}",
        header.replace('"__metadata__":{', '"__metadata__":{"concept": "tom",'),
    ):
        path.write_bytes(struct.pack("<Q", len(twice.encode())) + twice.encode() + body)
        assert "a name stands twice" in refusal(path, read)


def test_two_words_that_are_one_in_unicodes_form_are_refused(path):
    words = {f"embedding.{word}": torch.ones(4) for word in ("caf\u00e9", "cafe\u0301")}
    write(path, {**tensors(), **words})
    for read in (Residual.load, Residual.outline):
        assert "stands in it twice, in two forms of Unicode" in refusal(path, read)
    with pytest.raises(PersresError, match="two forms of Unicode"):
        residual = sample_residual()
        residual.embeddings = {name.removeprefix("embedding."): tensor for name, tensor in words.items()}
        residual.save(path)
