import base64
import errno
import hashlib
import json
import os
import pickle
import struct
import zipfile

import pytest
import safetensors.torch
import torch
from torch import nn

from lib_persres import residual as module
from lib_persres.errors import PersresError
from lib_persres.residual import Factors, Metadata, Residual, file_hash, rank_of

NAMES = ("input_blocks.1.1", "middle_block.1")
DOWN, UP = "input_blocks.1.1.proj_out.down", "input_blocks.1.1.proj_out.up"
PNG = b"\x89PNG\r\n\x1a\n"
HEADER = {
    "format": "persres",
    "format_version": "1",
    "concept": "rex",
    "identifier": "olis",
    "macro_class": "dog",
}


class Transformer(nn.Module):
    """A block by structure."""

    def __init__(self, width, width_out=None, linear=False):
        super().__init__()
        make = nn.Linear if linear else (lambda a, b: nn.Conv2d(a, b, 1))
        self.proj_in, self.transformer_blocks = nn.Identity(), nn.ModuleList()
        self.proj_out = make(width, width_out or width)


def unet_of(blocks):
    """A module tree with these modules at these paths."""
    root = nn.Module()
    for path, block in blocks.items():
        parent = root
        *folders, last = path.split(".")
        for folder in folders:
            if not hasattr(parent, folder):
                parent.add_module(folder, nn.Module())
            parent = getattr(parent, folder)
        parent.add_module(last, block)
    return root


def small_unet(width=8):
    return unet_of({NAMES[0]: Transformer(width), NAMES[1]: Transformer(16, linear=True)})


@pytest.fixture
def residual():
    """A trained-looking residual whose values fp16 holds exactly."""
    generator = torch.Generator().manual_seed(0)
    metadata = Metadata(
        concept="rex ☺",
        identifier="olis",
        macro_class="dog",
        base_hash="ab" * 32,
        recipe={"paper": {"learning_rate": 1e-3, "stages": [1, 2]}},
        steps=150,
        seed=2**63,
        loss={"last": 0.125},
        image_hashes=["0" * 64],
        preview=base64.b64encode(PNG + b"rest").decode(),
    )
    made = Residual.initialise(small_unet(), 4, generator, metadata)
    for target, f in made.factors.items():
        up = torch.randn(f.up.shape, generator=generator)
        made.factors[target] = Factors(f.down.half().float(), up.half().float())
    return made


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rex.safetensors"


def refusal(path, read=Residual.load):
    """The one sentence with which a file is refused; it names the file."""
    with pytest.raises(PersresError) as caught:
        read(path)
    text = str(caught.value)
    assert str(path) in text and text.endswith(".") and "\n" not in text
    return text


def tensors(rank=2, **changes):
    """A sound file's tensors, with some changed (or, None, missing)."""
    sound = {DOWN: torch.ones(rank, 8), UP: torch.ones(8, rank)}
    names = {"down": DOWN, "up": UP}
    changed = {**sound, **{names.get(name, name): tensor for name, tensor in changes.items()}}
    return {name: tensor for name, tensor in changed.items() if tensor is not None}


def write(path, state, header=HEADER):
    safetensors.torch.save_file(state, path, metadata=header)
    return path


# rank


@pytest.mark.parametrize("width, rank", [(320, 16), (640, 32), (1280, 64), (8, 1), (30, 2)])
def test_rank_is_the_papers_part_of_the_width_and_at_least_one(width, rank):
    assert rank_of("0.05m", width) == rank_of(" 0.05 m ", width) == rank_of(0.05, width) == rank
    assert rank_of("0.05", width) == rank


def test_rank_can_be_a_number_and_is_never_above_the_width():
    assert rank_of("8", 320) == rank_of(8, 320) == rank_of(8.0, 320) == 8
    assert rank_of(1, 320) == 1
    assert rank_of("1m", 320) == 320
    assert rank_of("500", 320) == rank_of(10**30, 320) == 320


@pytest.mark.parametrize(
    "rule",
    ["", "m", "0m", "0", 0, -1, "-0.1m", "2m", 2.5, "nan", float("nan"), "8x", True, None, "9" * 5000 + ".5"],
)
def test_bad_rank_rule_is_refused_in_one_sentence(rule):
    with pytest.raises(PersresError, match="0.05m") as caught:
        rank_of(rule, 320)
    assert len(str(caught.value)) < 200


# initialise


def test_initial_residual_changes_nothing_and_its_down_has_variance_one_over_m():
    made = Residual.initialise(unet_of({"a": Transformer(400)}), "1m", torch.Generator().manual_seed(0))
    factors = made.factors["a.proj_out"]
    assert factors.delta().shape == (400, 400) and not factors.delta().any()
    assert factors.down.var().item() == pytest.approx(1 / 400, rel=0.02)
    assert factors.down.mean().item() == pytest.approx(0, abs=1e-3)
    assert {factors.down.dtype, factors.up.dtype} == {torch.float32}


def test_initial_residual_depends_on_the_seed_alone_and_not_on_the_unets_device():
    def make(seed, unet):
        return Residual.initialise(unet, 4, torch.Generator().manual_seed(seed)).factors

    with torch.device("meta"):
        elsewhere = make(1, small_unet())
    first, other = make(1, small_unet()), make(2, small_unet())
    assert list(first) == [f"{name}.proj_out" for name in NAMES]
    for target, factors in first.items():
        assert torch.equal(factors.down, elsewhere[target].down)
        assert not torch.equal(factors.down, other[target].down)


def test_initial_residual_remembers_its_rank_rule_and_leaves_the_given_metadata_alone():
    given = Metadata(concept="rex")
    made = Residual.initialise(small_unet(), 4, metadata=given)
    assert (made.metadata.concept, made.metadata.rank, given.rank) == ("rex", "4", "0.05m")


def test_unequal_widths_give_a_delta_of_the_weights_shape():
    unet = unet_of({"a": Transformer(4, 6), "b": Transformer(6, 4, linear=True)})
    made = Residual.initialise(unet, "100")
    for name in "ab":
        factors = made.factors[f"{name}.proj_out"]
        assert factors.rank == 4 and factors.delta().shape == getattr(unet, name).proj_out.weight.shape[:2]
    made.check(unet)


def test_sd1_widths_give_the_papers_number_of_parameters():
    with torch.device("meta"):
        unet = unet_of({f"b{i}": Transformer(w) for i, w in enumerate([320] * 5 + [640] * 5 + [1280] * 6)})
    assert Residual.initialise(unet).parameters_count() == 1_239_040


def test_sd1s_own_unet_gives_the_papers_blocks_and_number_of_parameters():
    pytest.importorskip("ldm")
    from lib_persres.standalone.architecture import SD1_UNET
    from lib_persres.standalone.modules import build_unet

    with torch.device("meta"):
        unet = build_unet(SD1_UNET)
    made = Residual.initialise(unet)
    assert made.parameters_count() == 1_239_040 and len(made.factors) == 16
    assert next(iter(made.factors)) == "input_blocks.1.1.proj_out"
    made.check(unet)


def test_delta_added_to_the_weight_is_the_branch_added_to_the_output(residual):
    unet = small_unet()
    for name, shape in zip(NAMES, [(2, 8, 3, 3), (2, 9, 16)], strict=True):
        proj_out, x = unet.get_submodule(name).proj_out, torch.randn(shape)
        factors = residual.factors[f"{name}.proj_out"]
        pixels = x.movedim(1, -1) if x.ndim == 4 else x
        branch = pixels @ factors.down.T @ factors.up.T
        expected = proj_out(x) + (branch.movedim(-1, 1) if x.ndim == 4 else branch)
        with torch.no_grad():
            proj_out.weight += factors.delta().view_as(proj_out.weight)
        torch.testing.assert_close(proj_out(x), expected, atol=1e-5, rtol=1e-5)


# save and load


def test_saved_and_loaded_residual_is_bit_identical_to_its_fp16_rounding(residual, path):
    target = "middle_block.1.proj_out"
    rough = Factors(residual.factors[target].down * 1.0001, residual.factors[target].up)
    residual.factors[target] = rough
    residual.embeddings["olis"] = torch.ones(2, 12)
    residual.save(path)
    loaded = Residual.load(path)
    assert set(loaded.factors) == set(residual.factors)
    for name, factors in residual.factors.items():
        assert torch.equal(loaded.factors[name].down, factors.down.half().float())
        assert torch.equal(loaded.factors[name].up, factors.up.half().float())
        assert loaded.factors[name].down.dtype == torch.float32
    assert torch.equal(loaded.embeddings["olis"], torch.ones(2, 12)) and list(loaded.embeddings) == ["olis"]
    loaded.check(small_unet())


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
    assert torch.equal(
        Residual.load(path).factors["input_blocks.1.1.proj_out"].down, factors.down.to(dtype).float()
    )


def test_file_holds_the_modules_paths_and_plain_strings(residual, path):
    residual.save(path)
    with safetensors.safe_open(path, framework="pt") as file:
        names, header = set(file.keys()), file.metadata()
    assert names == {f"{name}.proj_out.{side}" for name in NAMES for side in ("down", "up")}
    assert (header["format"], header["format_version"], header["steps"]) == ("persres", "1", "150")
    assert json.loads(header["recipe"]) == residual.metadata.recipe


def test_absent_preview_and_seed_are_left_out_of_the_file(path):
    Residual.initialise(small_unet()).save(path)
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
    Residual({"a.proj_out": Factors(shared.T, shared)}).save(path, torch.float32)
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
    large = Residual({"a": Factors(torch.full((1, 4), 70000.0), torch.ones(4, 1))})
    assert "too large for torch.float16" in kept(path, large)
    large.save(path, torch.float32)
    assert Residual.load(path).factors["a"].down[0, 0] == 70000


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_diverged_training_is_not_written(path, value):
    diverged = Residual({"a": Factors(torch.ones(1, 4), torch.full((4, 1), value))})
    assert "a.up are not finite" in kept(path, diverged, dtype=torch.float32)


def test_what_load_would_refuse_is_not_written(path):
    ones = torch.ones
    assert "no factors" in kept(path, Residual({}))
    assert "rank 2 in down and 3 in up" in kept(path, Residual({"a": Factors(ones(2, 4), ones(4, 3))}))
    assert "is possible" in kept(path, Residual({"a": Factors(ones(5, 4), ones(4, 5))}))
    sound = {"a": Factors(ones(1, 4), ones(4, 1))}
    assert "macro_class" in kept(path, Residual(sound, Metadata(macro_class=3)))
    assert "concept" in kept(path, Residual(sound, Metadata(concept=None)))
    assert "recipe" in kept(path, Residual(sound, Metadata(recipe={"folder": path})))
    assert "loss" in kept(path, Residual(sound, Metadata(loss={"last": float("nan")})))
    assert "preview" in kept(path, Residual(sound, Metadata(preview='"><script>')))
    large = base64.b64encode(PNG + b"\0" * 60_000).decode()
    assert "preview" in kept(path, Residual(sound, Metadata(preview=large)))
    kept(path, Residual(sound, Metadata(concept="\ud800")))  # no UTF-8
    assert "not in torch.int8" in kept(path, Residual(sound), dtype=torch.int8)


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


# what load refuses


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
    ],
)
def test_damaged_metadata_is_refused_by_the_name_of_the_field(path, key, text):
    write(path, tensors(), {**HEADER, key: text})
    for read in (Residual.load, Residual.read_metadata):
        sentence = refusal(path, read)
        assert key in sentence and len(sentence) < len(str(path)) + 200


@pytest.mark.parametrize("key", ["concept", "identifier", "macro_class"])
def test_metadata_that_a_prompt_needs_must_be_there(path, key):
    write(path, tensors(), {name: text for name, text in HEADER.items() if name != key})
    assert f"lacks {key}" in refusal(path)


def with_value(value):
    tensor = torch.ones(2, 8)
    tensor[1, 3] = value
    return tensor


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
        (tensors(down=torch.ones(1, 65537), up=torch.ones(8, 1)), "absurd"),
        (tensors(down=torch.ones(2, 8, dtype=torch.int32)), "I32"),
        (tensors(down=torch.ones(2, 8, dtype=torch.bool)), "BOOL"),
        (tensors(stray=torch.ones(1)), "stray is not a residual's tensor"),
        ({"down": torch.ones(1, 8), "up": torch.ones(8, 1)}, "not a residual's tensor"),
        (tensors(**{"embedding.olis": torch.ones(1, 2, 3)}), "embedding.olis"),
        (tensors(**{"embedding.olis": torch.full((4,), float("nan"))}), "embedding.olis"),
        ({"embedding.olis": torch.ones(4)}, "no factors"),
    ],
)
def test_wrong_tensors_are_refused(path, state, reason):
    text = refusal(write(path, state))
    assert reason in text
    Residual.read_metadata(path)  # the header is sound


def test_metadata_is_read_without_the_tensors(path):
    write(path, tensors(down=with_value(float("nan"))))
    assert Residual.read_metadata(path).concept == "rex"


# check


def test_residual_of_its_own_unet_passes_the_check(residual):
    residual.check(small_unet())


def test_check_says_which_width_differs_and_names_the_concept_or_file(residual):
    with pytest.raises(
        PersresError, match="width 8 at input_blocks.1.1.proj_out, this UNet has 12"
    ) as caught:
        residual.check(small_unet(width=12))
    assert "residual of rex" in str(caught.value) and "SD1" in str(caught.value)
    with pytest.raises(PersresError, match=r"^rex.safetensors was trained for another model"):
        residual.check(small_unet(width=12), "rex.safetensors")


def test_check_sees_each_side_of_a_width(residual):
    unet = unet_of({NAMES[0]: Transformer(8, 12), NAMES[1]: Transformer(16)})
    with pytest.raises(PersresError, match="this UNet has 8 to 12"):
        residual.check(unet)


def test_check_refuses_a_target_that_the_unet_lacks_and_a_block_that_the_residual_lacks(residual):
    with pytest.raises(PersresError, match="it changes middle_block.1.proj_out, which this UNet lacks"):
        residual.check(unet_of({NAMES[0]: Transformer(8)}))
    larger = small_unet()
    larger.add_module("extra", Transformer(8))
    with pytest.raises(PersresError, match="has nothing for this UNet's extra.proj_out"):
        residual.check(larger)


def test_check_refuses_a_model_without_blocks(residual):
    with pytest.raises(PersresError, match="no transformer blocks"):
        residual.check(nn.Linear(2, 2))
