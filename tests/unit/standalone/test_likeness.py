"""What is given for a checkpoint and is none: said by what it is. Nothing in a pickle is ever run."""

import json
import zipfile

import pytest

pytest.importorskip("ldm")

import torch
from residual_samples import sample_residual
from safetensors.torch import save_file

from benchmarks.fuzz import checkpoints
from lib_persres.errors import PersresError
from lib_persres.standalone.checkpoint import load, save_sd1


@pytest.fixture
def model(tmp_path):
    """A tiny sound model's safetensors file with what belongs to it."""
    for name, data in checkpoints.files().items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "m.safetensors"


def refusal(path):
    """The one sentence with which `path` is refused; it names the file."""
    with pytest.raises(PersresError) as caught:
        load(path, device="cpu")
    text = str(caught.value)
    assert path.name in text and "\n" not in text
    return text


@pytest.mark.parametrize(
    "name, shape, kind",
    [
        ("cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight", (1,), "no UNet"),
        ("conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight", (1,), "no UNet"),
        ("model.diffusion_model.label_emb.0.0.weight", (1,), "no autoencoder"),
        ("conditioner.embedders.0.model.ln_final.weight", (1,), "SDXL's refiner or SD Turbo"),
        ("model.diffusion_model.joint_blocks.0.x", (1,), "an SD3 checkpoint"),
        ("double_blocks.0.img_attn.qkv.weight", (1,), "a Flux checkpoint"),
        ("lora_unet_down_blocks_0.lora_up.weight", (1,), "a LoRA"),
        ("unet.down_blocks.0.attentions.0.to_k.lora_A.weight", (1,), "a LoRA"),
        ("unet.up_blocks.0.hada_w1_a", (1,), "a LoRA"),
        ("control_model.input_blocks.0.0.weight", (1,), "a ControlNet"),
        ("controlnet_cond_embedding.conv_in.weight", (1,), "a ControlNet"),
        ("first_stage_x.decoder", (1,), "no UNet"),
        ("decoder.conv_in.weight", (1,), "a VAE"),
        ("decoder.up_blocks.0.resnets.0.conv1.weight", (1,), "a VAE"),
        ("down_blocks.0.resnets.0.conv1.weight", (1,), "a UNet in diffusers' format"),
        ("text_model.encoder.layers.0.mlp.fc1.weight", (1,), "a text encoder"),
        ("emb_params", (3, 768), "a textual inversion embedding"),
        ("<cat-toy>", (768,), "a textual inversion embedding"),
        ("my-word", (2, 768), "a textual inversion embedding"),
        ("something.else", (1,), "no UNet"),
    ],
)
def test_other_files_are_refused_by_what_they_are(name, shape, kind, tmp_path):
    for path, write in ((tmp_path / "other.safetensors", save_file), (tmp_path / "other.ckpt", torch.save)):
        write({name: torch.zeros(shape)}, path)
        text = refusal(path)
        assert kind in text and (kind.startswith("no ") or "a whole SD1, SD2 or SDXL checkpoint is wanted" in text)


def test_a_model_that_is_told_a_picture_is_refused(tmp_path):
    path = tmp_path / "unclip.safetensors"
    names = ("model.diffusion_model.label_emb.0.0.weight", "cond_stage_model.model.ln_final.weight")
    save_file({name: torch.zeros(1) for name in names}, path)
    assert "an unCLIP checkpoint" in refusal(path)


def test_our_own_files_are_known(tmp_path):
    path = tmp_path / "rex.safetensors"
    sample_residual().save(path)
    assert "a residual of this extension" in refusal(path)
    torch.save({"facts": {}, "learned": {}, "losses": []}, tmp_path / "rex.state.pt")
    assert "the state of an unfinished training" in refusal(tmp_path / "rex.state.pt")


@pytest.mark.parametrize(
    "name, data, kind",
    [
        ("m.gguf", b"GGUF\3\0\0\0" + bytes(99), "a GGUF file"),
        ("m.safetensors", b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
        ("m.ckpt", b"<!DOCTYPE html><html>" * 9, "a failed download"),
        ("m.safetensors", b"\x89PNG\r\n\x1a\n" + bytes(99), "a picture"),
        ("m.7z", b"7z\xbc\xaf\x27\x1c" + bytes(99), "a 7z archive"),
        ("m.ckpt", bytes(99), "neither a pickle nor a safetensors file"),
        ("m.ckpt", b"", "neither a pickle nor a safetensors file"),
        ("m.txt", b"hello, hello, hello", "must end in .safetensors or .ckpt"),
    ],
)
def test_other_content_is_refused_by_what_it_is(name, data, kind, tmp_path):
    (tmp_path / name).write_bytes(data)
    assert kind in refusal(tmp_path / name)


def test_folders_are_told_apart(tmp_path):
    assert "a folder: give the checkpoint's .safetensors file" in refusal(tmp_path)
    (tmp_path / "one.safetensors").touch()
    assert "give the file in it, one.safetensors" in refusal(tmp_path)
    (tmp_path / "unet").mkdir()
    assert "a folder in diffusers' format" in refusal(tmp_path)


def test_a_fifo_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "m.safetensors")
    assert "is not a file" in refusal(tmp_path / "m.safetensors")


def test_a_file_is_read_by_what_it_holds_not_by_its_name(model):
    expected = load(model, device="cpu").unet.state_dict()
    renamed = model.with_suffix(".ckpt")
    renamed.write_bytes(model.read_bytes())
    for path in (renamed, model.with_name("zip.ckpt"), model.with_name("legacy.ckpt")):
        model.with_suffix(".yaml").rename(path.with_suffix(".yaml"))
        found = load(path, device="cpu").unet.state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
        path.with_suffix(".yaml").rename(model.with_suffix(".yaml"))
    model.write_bytes(model.with_name("zip.ckpt").read_bytes())
    assert "a pickle under a safetensors name: rename it to .ckpt" in refusal(model)


class Harmful:
    def __reduce__(self):
        raise_if_loaded = "raise SystemExit('code in a pickle was run')"
        return exec, (raise_if_loaded,)


def test_pickles_are_refused_when_harmful_cut_or_without_weights(tmp_path):
    path = tmp_path / "m.ckpt"
    for zipped in (True, False):
        torch.save({"a": Harmful()}, path, _use_new_zipfile_serialization=zipped)
        assert "could run code" in refusal(path)
        torch.save({"a": torch.zeros(1000)}, path, _use_new_zipfile_serialization=zipped)
        path.write_bytes(path.read_bytes()[:2000])
        assert "damaged or truncated" in refusal(path)
    torch.save({"string_to_param": {"*": torch.zeros(1, 768)}}, path)
    assert "a textual inversion embedding" in refusal(path)
    torch.save({768: [{"linear.0.weight": torch.zeros(3)}]}, path)
    assert "a hypernetwork" in refusal(path)
    torch.save(torch.zeros(3), path)
    assert "no named tensors" in refusal(path)
    torch.save({"model.diffusion_model.x": torch.zeros(3).to_sparse()}, path)
    assert "no plain tensor" in refusal(path)


def test_no_pickle_becomes_larger_than_its_file(tmp_path):
    path = tmp_path / "m.ckpt"
    torch.save({"model.diffusion_model.x": torch.zeros(1).expand(10**9)}, path)
    assert "no plain tensor" in refusal(path)
    shared = torch.zeros(10_000)
    torch.save({f"model.diffusion_model.{number}": shared for number in range(100)}, path)
    assert "larger than the file" in refusal(path)
    torch.save({"model.diffusion_model.x": torch.zeros(10**6)}, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    assert "a compressed archive" in refusal(tmp_path / "bomb.ckpt")


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": 7},
        {"shape": [10**400]},
        {"shape": [-1]},
        {"shape": "x"},
        {"data_offsets": [0]},
        {"data_offsets": [0, 2**63]},
        {"data_offsets": [4, 2]},
        {"data_offsets": None},
        {"shape": [[[1]]]},
    ],
)
def test_a_header_that_lies_is_refused(change, model):
    data = model.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    name = next(name for name in header if name != "__metadata__")
    header[name] |= change
    text = json.dumps(header).encode()
    model.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    assert "header" in refusal(model)


def test_nothing_is_read_of_a_file_that_does_not_fit(model, monkeypatch):
    from lib_persres.standalone import stored

    monkeypatch.setattr(stored, "_reader", lambda *_: lambda: pytest.fail("a tensor was read"))
    model.with_suffix(".yaml").unlink()
    refusal(model)


# -- numbers that are not finite


@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.out.2.bias",
        "first_stage_model.decoder.conv_out.bias",
        "cond_stage_model.transformer.text_model.final_layer_norm.bias",
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(name, value, model):
    from safetensors.torch import load_file

    state = load_file(model)
    state[name][-1] = value
    save_file(state, model)
    text = refusal(model)
    assert name in text and "not finite" in text and "the first is" in text


def test_weights_that_are_too_large_for_halves_are_said_to_be(model):
    from safetensors.torch import load_file

    state = {name: tensor.float() for name, tensor in load_file(model).items()}
    state["model.diffusion_model.out.2.bias"][0] = 1e6
    save_file(state, model)
    load(model, device="cpu")
    with pytest.raises(PersresError, match="out.2.bias has numbers too large for float16"):
        load(model, device="cpu", dtype=torch.float16)


# -- what lies beside it


BOMB = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]\n" for i in range(9))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: BOMB + text.replace("version: text_encoder", "version: *a8"),
        lambda text: "x: " + "y" * 200_000 + "\n" + text,
        lambda text: "[" * 50_000,
        lambda text: text.replace("num_res_blocks: 1", "num_res_blocks: 1000000000"),
        lambda text: text.replace("transformer_depth: 1", "transformer_depth: 1000000000"),
        lambda text: text.replace("model_channels: 32", "model_channels: " + "9" * 5000),
        lambda text: text.replace("model_channels: 32", "model_channels: .nan"),
        lambda text: text.replace("timesteps: 1000", "timesteps: 1000000000"),
        lambda text: text.replace("scale_factor: 0.5", "scale_factor: 0"),
        lambda text: text.replace("num_heads: ", "num_heads: -4 #"),
        lambda text: text.replace("linear_start: ", "linear_start: 1.0e-300 #"),
        lambda text: text.replace("scale_factor: 0.5", "scale_factor: .inf"),
        lambda text: text.replace("linear_end: 0.012", "linear_end: 0.9999"),
        lambda text: text.replace("out_ch: 3", "out_ch: 4"),
        lambda text: text.replace("image_size: 4", "image_size: -4"),
        lambda text: "!!python/object:os.system {}",
        lambda text: "a: 2020-99-99",
    ],
)
def test_a_yaml_that_is_damaged_huge_or_a_bomb_is_a_sentence(change, model):
    path = model.with_suffix(".yaml")
    changed = change(path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)
    with pytest.raises(PersresError, match="m.yaml"):
        load(model, device="cpu")


@pytest.mark.parametrize("version", ["/etc", "../other", "C:\\\\models", "\\\\\\\\server\\\\share"])
def test_a_yaml_leads_to_no_folder_elsewhere(version, model):
    from lib_persres.standalone import architecture

    path = model.with_suffix(".yaml")
    path.write_text(path.read_text().replace("version: text_encoder", f'version: "{version}"'))
    assert architecture.read(model).text_folder is None


@pytest.mark.parametrize(
    "name, change",
    [
        ("config.json", {"hidden_size": 10**9}),
        ("config.json", {"hidden_size": [8]}),
        ("config.json", {"num_hidden_layers": 10**9}),
        ("config.json", {"num_attention_heads": 0}),
        ("config.json", {"hidden_act": "odd"}),
        ("config.json", {"hidden_act": []}),
        ("config.json", {"eos_token_id": "x"}),
        ("config.json", {"eos_token_id": 2**31}),
        ("config.json", {"bos_token_id": None}),
        ("config.json", {"layer_norm_eps": float("nan")}),
        ("config.json", []),
        ("config.json", "[" * 50_000),
        ("vocab.json", {"a": 10**9}),
        ("vocab.json", {"a": "b"}),
        ("vocab.json", []),
        ("merges.txt", "q z\n"),
        ("merges.txt", "a b c\n"),
    ],
)
def test_a_text_encoders_files_that_are_damaged_are_a_sentence(name, change, model):
    path = model.parent / "text_encoder" / name
    if isinstance(change, dict):
        change = json.loads(path.read_text()) | change
    path.write_text(change if isinstance(change, str) else json.dumps(change))
    with pytest.raises(PersresError):
        load(model, device="cpu")


# -- anything else


def test_a_checkpoint_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    from safetensors import SafetensorError
    from standalone_models import tiny_text, tiny_unet, tiny_vae

    from lib_persres.standalone import checkpoint

    def full(state, path, metadata):
        path.write_bytes(b"half of it")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(PersresError, match="cannot be written: I/O error"):
        save_sd1(tmp_path / "m.safetensors", tiny_unet(), tiny_vae(), tiny_text())
    assert not list(tmp_path.glob("m.safetensors*"))
