"""A residual's file: it holds what was saved, and a save that fails leaves the folder as it was."""

import base64
import errno
import hashlib
import json
import os

import pytest
import safetensors.torch
import torch
from residual_samples import DOWN, HEADER, NAMES, PNG, said, small_unet, tensors, write

from lib_persres import residual as module
from lib_persres.errors import PersresError
from lib_persres.residual import Factors, Residual, file_hash

# save and load


def test_saved_and_loaded_residual_is_bit_identical_to_its_fp16_rounding(residual, path):
    target = "middle_block.1.proj_out"
    rough = Factors(residual.factors[target].down * 1.0001, residual.factors[target].up)
    residual.factors[target] = rough
    identifier = residual.metadata.identifier
    residual.embeddings[identifier] = torch.ones(2, 12)
    residual.metadata.targets = "embedding+proj_out"
    residual.save(path)
    loaded = Residual.load(path)
    assert set(loaded.factors) == set(residual.factors)
    for name, factors in residual.factors.items():
        assert torch.equal(loaded.factors[name].down, factors.down.half().float())
        assert torch.equal(loaded.factors[name].up, factors.up.half().float())
        assert loaded.factors[name].down.dtype == torch.float32
    assert torch.equal(loaded.embeddings[identifier], torch.ones(2, 12)) and list(loaded.embeddings) == [identifier]
    loaded.check(small_unet())


def test_an_embedding_and_the_rule_for_targets_go_together(residual, path):
    identifier = residual.metadata.identifier
    residual.metadata.targets = "embedding+proj_out"
    with pytest.raises(PersresError, match="lacks the embedding"):
        residual.check(small_unet())
    residual.embeddings[identifier] = torch.ones(12)
    residual.check(small_unet())
    residual.metadata.targets = "proj_out"
    with pytest.raises(PersresError, match="has an embedding, which is none of its targets, proj_out"):
        residual.check(small_unet())


def test_a_file_may_hold_an_embedding_alone(residual, path):
    residual.metadata.targets = "embedding"
    Residual({}, residual.metadata, {residual.metadata.identifier: torch.ones(12)}).save(path)
    loaded = Residual.load(path)
    loaded.check(small_unet())
    assert loaded.parameters_count() == 12 and not loaded.factors


def test_metadata_survives_the_file(residual, path):
    residual.save(path)
    assert Residual.load(path).metadata == Residual.read_metadata(path) == residual.metadata


def test_merged_weights_survive_the_file(residual, path):
    residual.save(path)
    loaded = Residual.load(path)
    for name, factors in residual.factors.items():
        assert torch.equal(loaded.factors[name].delta(), factors.delta())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes_round_trip_to_their_own_rounding(residual, path, dtype):
    residual.save(path, dtype)
    assert safetensors.torch.load_file(path)[DOWN].dtype == dtype
    factors = residual.factors["input_blocks.1.1.proj_out"]
    assert torch.equal(Residual.load(path).factors["input_blocks.1.1.proj_out"].down, factors.down.to(dtype).float())


def test_file_holds_the_modules_paths_and_plain_strings(residual, path):
    residual.save(path)
    with safetensors.safe_open(path, framework="pt") as file:
        names, header = set(file.keys()), file.metadata()
    assert names == {f"{name}.proj_out.{side}" for name in NAMES for side in ("down", "up")}
    assert (header["format"], header["format_version"], header["steps"]) == ("persres", "1", "150")
    assert json.loads(header["recipe"]) == residual.metadata.recipe


def test_absent_preview_and_seed_are_left_out_of_the_file(path):
    Residual.initialise(small_unet(), metadata=said()).save(path)
    with safetensors.safe_open(path, framework="pt") as file:
        assert not {"preview", "seed", "extra"} & set(file.metadata())
    assert Residual.read_metadata(path).preview is None


def test_unknown_metadata_is_kept_and_written_back(path, tmp_path):
    write(path, tensors(), {**HEADER, "note": "from afar"})
    loaded = Residual.load(path)
    assert loaded.metadata.extra == {"note": "from afar"} and loaded.metadata.created == ""
    again = tmp_path / "again.safetensors"
    loaded.save(again)
    assert Residual.read_metadata(again) == loaded.metadata
    loaded.metadata.extra |= {"concept": "not rex", "seed": "7", "format": "not ours"}
    loaded.save(again)  # what is a field is said by the field
    reread = Residual.read_metadata(again)
    assert (reread.concept, reread.seed, reread.extra) == ("rex", None, {"note": "from afar"})


def test_training_leaves_and_shared_tensors_can_be_saved(path):
    shared = torch.ones(4, 4, requires_grad=True)
    Residual({"a.proj_out": Factors(shared.T, shared)}, said()).save(path, torch.float32)
    assert torch.equal(Residual.load(path).factors["a.proj_out"].up, torch.ones(4, 4))


def test_loaded_tensors_do_not_depend_on_the_file(residual, path):
    residual.save(path, torch.float32)
    loaded = Residual.load(path)
    with open(path, "r+b") as file:  # in place, as no save of ours would
        size = path.stat().st_size
        file.seek(size // 2)
        file.write(b"\0" * (size - size // 2))
    for name, factors in residual.factors.items():
        assert torch.equal(loaded.factors[name].up, factors.up)


def test_sound_file_whose_first_bytes_are_a_pickles_is_loaded(path):
    # the first eight bytes are the header's length, which may be 0x…80
    state, found = tensors(), set()
    for padding in range(0, 20000, 8):
        data = safetensors.torch.save(state, {**HEADER, "note": "x" * padding})
        start = b"\x80" if data[:1] == b"\x80" else data[:2]
        if start in (b"\x80", b"PK") and start not in found:
            found.add(start)
            path.write_bytes(data)
            assert Residual.load(path).metadata.concept == "rex"
    assert found == {b"\x80", b"PK"}


def test_file_hash_is_the_sha256_of_the_file(path, tmp_path):
    path.write_bytes(b"x" * 3_000_000)
    assert file_hash(path) == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    with pytest.raises(PersresError, match="missing"):
        file_hash(tmp_path / "missing")


# what save refuses


def kept(path, residual, **arguments):
    """Saving fails with a sentence and leaves the folder as it was."""
    path.write_bytes(b"older")
    with pytest.raises(PersresError) as caught:
        residual.save(path, **arguments)
    assert os.listdir(path.parent) == [path.name] and path.read_bytes() == b"older"
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_values_that_fp16_cannot_hold_are_not_written(path):
    large = Residual({"a": Factors(torch.full((1, 4), 70000.0), torch.ones(4, 1))}, said())
    assert "too large for torch.float16" in kept(path, large)
    # a model in fp16 has no such number either
    assert "values of a.down are up to 7e+04" in kept(path, large, dtype=torch.float32)


def test_changes_that_no_weight_survives_are_not_written(path):
    absurd = Residual({"a": Factors(torch.full((1, 4), 300.0), torch.full((4, 1), -300.0))}, said())
    assert "weights of a by up to 9e+04" in kept(path, absurd)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_diverged_training_is_not_written(path, value):
    diverged = Residual({"a": Factors(torch.ones(1, 4), torch.full((4, 1), value))}, said())
    assert "a.up are not finite" in kept(path, diverged, dtype=torch.float32)


def test_what_load_would_refuse_is_not_written(path):
    ones = torch.ones
    assert "no factors" in kept(path, Residual({}))
    assert "rank 2 in down and 3 in up" in kept(path, Residual({"a": Factors(ones(2, 4), ones(4, 3))}))
    assert "is possible" in kept(path, Residual({"a": Factors(ones(5, 4), ones(4, 5))}))
    sound = {"a": Factors(ones(1, 4), ones(4, 1))}
    assert "macro_class" in kept(path, Residual(sound, said(macro_class=3)))
    assert "concept" in kept(path, Residual(sound, said(concept=None)))
    assert "recipe" in kept(path, Residual(sound, said(recipe={"folder": path})))
    assert "loss" in kept(path, Residual(sound, said(loss={"last": float("nan")})))
    assert "preview" in kept(path, Residual(sound, said(preview='"><script>')))
    large = base64.b64encode(PNG + b"\0" * 60_000).decode()
    assert "preview" in kept(path, Residual(sound, said(preview=large)))
    kept(path, Residual(sound, said(concept="\ud800")))  # no UTF-8
    for words in ({"identifier": " "}, {"identifier": "a b"}, {"identifier": "[" * 200}, {"macro_class": "(dog)"}):
        assert next(iter(words)).removeprefix("macro_") in kept(path, Residual(sound, said(**words)))
    assert "not in torch.int8" in kept(path, Residual(sound, said()), dtype=torch.int8)


def test_name_without_safetensors_is_not_written(residual, tmp_path):
    with pytest.raises(PersresError, match="ends in .safetensors"):
        residual.save(tmp_path / "rex.pt")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("broken", ["replace", "fsync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_failed_save_leaves_the_older_file_and_nothing_else(residual, path, monkeypatch, broken, code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module.os, broken, fail)
    assert os.strerror(code) in kept(path, residual)


def test_failed_serialisation_leaves_the_older_file_and_nothing_else(residual, path, monkeypatch):
    def fail(*_):
        raise safetensors.SafetensorError("no")

    monkeypatch.setattr(module.safetensors.torch, "save", fail)
    assert "is not written: no." in kept(path, residual)


def test_interrupted_save_leaves_the_older_file_and_nothing_else(residual, path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    path.write_bytes(b"older")
    monkeypatch.setattr(module.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        residual.save(path)
    assert os.listdir(path.parent) == [path.name] and path.read_bytes() == b"older"


def test_save_makes_the_folder_and_replaces_the_older_file(residual, tmp_path):
    path = tmp_path / "a" / "b" / ("r" * 240 + ".safetensors")  # as long as names may be
    residual.save(path)
    residual.metadata.concept = "second"
    residual.save(path)
    assert os.listdir(path.parent) == [path.name] and Residual.read_metadata(path).concept == "second"
    (tmp_path / "file").write_bytes(b"")
    for impossible in (tmp_path / "file" / "r.safetensors", tmp_path / "a\0b.safetensors"):
        with pytest.raises(PersresError, match="cannot be written"):
            residual.save(impossible)


def test_what_a_kill_left_half_written_is_removed_by_a_later_save_and_nothing_else_is(residual, path):
    old, young = path.with_name(".0123456789ab.partial"), path.with_name(".ba9876543210.partial")
    others = [path.with_name(".notes.partial"), path.with_name("mine.partial")]
    for file in (old, young, *others):
        file.write_bytes(b"half")
    for file in (old, *others):
        os.utime(file, (0, 0))
    residual.save(path)
    assert not old.exists() and young.exists() and all(file.exists() for file in others)
