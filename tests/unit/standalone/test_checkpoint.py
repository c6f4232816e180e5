import hashlib
import json

import pytest
import torch

pytest.importorskip("ldm")

from rounding import NETWORK, assert_near
from safetensors.torch import load_file, save_file
from standalone_models import tiny_text, tiny_unet, tiny_vae

from lib_persres.errors import PersresError
from lib_persres.standalone.checkpoint import alphas_cumprod, load, save_sd1


@pytest.fixture(scope="module")
def parts():
    return tiny_unet(), tiny_vae(), tiny_text()


@pytest.fixture(scope="module")
def saved(parts, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_sd1(path, *parts, scale_factor=0.5)
    return path


@pytest.fixture(scope="module")
def sd(saved):
    return load(saved, device="cpu")


@pytest.fixture(scope="module")
def state(saved):
    return load_file(saved)


def refusal(path):
    """The one sentence with which `path` is refused; it names the file."""
    with pytest.raises(PersresError) as caught:
        load(path, device="cpu")
    text = str(caught.value)
    assert path.name in text and "\n" not in text
    return text


def copy_beside(saved, state, name, tmp_path):
    """Write tensors under `name` with the tiny model's yaml and text encoder folder beside."""
    path = tmp_path / f"{name}.safetensors"
    save_file(state, path)
    path.with_suffix(".yaml").write_text(saved.with_suffix(".yaml").read_text())
    (tmp_path / "text_encoder").symlink_to(saved.parent / "text_encoder")
    return path


def test_saved_and_loaded_model_is_bit_identical_to_its_fp16_rounding(parts, sd):
    unet, vae, text = (part.to(torch.float16).to(torch.float32) for part in parts)
    x, t, z = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.randn(1, 4, 8, 8)
    conditioning, ids = sd.encode_prompts(["a dog", "a photo of a dog"])
    assert torch.equal(conditioning.context, text(text.tokenize(["a dog", "a photo of a dog"])))
    assert ids[0, :4].tolist() == [49406, 320, 1929, 49407]
    assert torch.equal(
        sd.unet(x, timesteps=t, **conditioning.arguments()), unet(x, timesteps=t, context=conditioning.context)
    )
    assert torch.equal(sd.vae.decode(z), vae.decode(z))


def test_loaded_model_is_frozen_and_knows_itself(sd, saved):
    for module in (sd.unet, sd.vae, sd.text):
        assert not module.training and not any(p.requires_grad for p in module.parameters())
    assert sd.family == "SD1" and sd.scale_factor == 0.5 and sd.path == saved
    assert (sd.device.type, sd.dtype) == ("cpu", torch.float32)
    assert sd.hash == hashlib.sha256(saved.read_bytes()).hexdigest() and sd.short_hash == sd.hash[:10]


def test_latents_are_scaled_and_images_in_range(sd):
    x = torch.rand(5, 3, 16, 16) * 2 - 1
    mean, std = sd.encode_images(x)
    expected_mean, expected_std = sd.vae.moments(x)
    assert_near(mean, expected_mean * 0.5, NETWORK)
    assert_near(std, expected_std * 0.5, NETWORK)
    images = sd.decode_latents(mean)
    assert images.shape == x.shape and images.min() >= 0 and images.max() <= 1
    assert_near(images, (sd.vae.decode(expected_mean) / 2 + 0.5).clamp(0, 1), 2 * NETWORK)
    with pytest.raises(PersresError, match="2 divides"):
        sd.encode_images(torch.zeros(1, 3, 15, 16))


def test_schedule_is_sd1s():
    alphas = alphas_cumprod(0.00085, 0.012, 1000)
    assert alphas.shape == (1000,) and alphas.dtype == torch.float32
    assert alphas[0].item() == pytest.approx(1 - 0.00085)
    assert alphas[-1].item() == pytest.approx(0.0046600, abs=1e-6)


def test_file_has_sd1s_names_in_half_precision(state):
    names = set(state)
    assert "cond_stage_model.transformer.text_model.embeddings.position_ids" in names
    assert "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight" in names
    assert "first_stage_model.quant_conv.weight" in names
    assert all(t.dtype == torch.float16 for n, t in state.items() if not n.endswith("position_ids"))


def test_half_precision_model_runs(saved):
    sd = load(saved, device="cpu", dtype=torch.bfloat16)
    conditioning, _ = sd.encode_prompts(["a dog"])
    out = sd.unet(torch.randn(1, 4, 8, 8), timesteps=torch.tensor([5]), **conditioning.arguments())
    assert conditioning.context.dtype == torch.bfloat16 and out.dtype == torch.float32 and out.isfinite().all()
    assert sd.decode_latents(torch.randn(1, 4, 8, 8)).dtype == torch.float32


def test_weights_only_pickle_and_old_text_names_load_alike(sd, saved, state, tmp_path):
    path = copy_beside(saved, state, "old", tmp_path).with_suffix(".ckpt")
    old = {name.replace("transformer.text_model.", "transformer."): t for name, t in state.items()}
    old["first_stage_model.loss.logvar"] = torch.zeros(())
    old["model_ema.decay"] = torch.zeros(())
    torch.save({"state_dict": old, "global_step": 3}, path)
    again = load(path, device="cpu")
    x, context = torch.randn(1, 4, 8, 8), sd.encode_prompts(["x"])[0].context
    assert torch.equal(again.encode_prompts(["x"])[0].context, context)
    t = torch.tensor([9])
    assert torch.equal(again.unet(x, timesteps=t, context=context), sd.unet(x, timesteps=t, context=context))


def test_what_is_no_checkpoint_is_refused(tmp_path, saved):
    assert "does not exist" in refusal(tmp_path / "missing.safetensors")
    assert "folder" in refusal(tmp_path)
    (tmp_path / "picture.png").write_bytes(b"png")
    assert ".safetensors" in refusal(tmp_path / "picture.png")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    assert "truncated" in refusal(tmp_path / "empty.safetensors")
    (tmp_path / "page.safetensors").write_bytes(b"<!DOCTYPE html><html>" * 9)
    assert "not a safetensors" in refusal(tmp_path / "page.safetensors")
    (tmp_path / "list.safetensors").write_bytes((2).to_bytes(8, "little") + b"[]")
    assert "header" in refusal(tmp_path / "list.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(saved.read_bytes()[:-100])
    assert "truncated" in refusal(tmp_path / "cut.safetensors")


def test_inpainting_checkpoint_is_refused(saved, state, tmp_path):
    changed = {**state, "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)}
    assert "inpainting" in refusal(copy_beside(saved, changed, "inpaint", tmp_path))


@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.out.2.bias",
        "first_stage_model.decoder.conv_out.bias",
        "cond_stage_model.transformer.text_model.final_layer_norm.bias",
    ],
)
@pytest.mark.parametrize("fault", ["missing", "shape", "extra"])
def test_first_mismatching_tensor_is_named(name, fault, saved, state, tmp_path):
    changed = dict(state)
    if fault == "missing":
        del changed[name]
    elif fault == "shape":
        changed[name] = torch.zeros(7)
    else:
        changed[name + "_more"] = torch.zeros(7)
    text = refusal(copy_beside(saved, changed, "faulty", tmp_path))
    assert name in text and (fault != "shape" or "(7,)" in text)


def test_small_model_without_its_yaml_is_refused(state, tmp_path):
    save_file(state, tmp_path / "alone.safetensors")
    assert "config.json" in refusal(tmp_path / "alone.safetensors")


@pytest.mark.parametrize("text", ["", "a: b", "model: {params: {}}", "{", "model: {params: {parameterization: v}}"])
def test_faulty_yaml_is_refused(text, saved, state, tmp_path):
    path = copy_beside(saved, state, "model", tmp_path)
    path.with_suffix(".yaml").write_text(text)
    with pytest.raises(PersresError, match="model.yaml"):
        load(path, device="cpu")


def test_yaml_that_describes_no_model_is_refused(saved, state, tmp_path):
    path = copy_beside(saved, state, "model", tmp_path)
    sidecar = path.with_suffix(".yaml")
    sidecar.write_text(sidecar.read_text().replace("num_heads: 4", "num_heads: 0"))
    with pytest.raises(PersresError, match="model.yaml describes no model"):
        load(path, device="cpu")


def test_header_whose_length_looks_like_a_pickle_is_read(tmp_path):
    from lib_persres.standalone.weights import opened

    path = tmp_path / "header.safetensors"
    header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'.ljust(0x80)
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"x")
    with opened(path) as state:
        assert state["a"].read().tolist() == [ord("x")]


def test_text_encoders_sizes_are_told_from_its_tensors():
    from lib_persres.standalone.text_config import text_config

    prefix = "transformer.text_model."
    tensors = {
        prefix + "embeddings.token_embedding.weight": torch.empty(49408, 768, device="meta"),
        prefix + "embeddings.position_embedding.weight": torch.empty(77, 768, device="meta"),
    }
    for layer in range(12):
        name = f"{prefix}encoder.layers.{layer}.mlp.fc1.weight"
        tensors[name] = torch.empty(3072, 768, device="meta")
    config = text_config(tensors, None, "v1-5.safetensors")
    assert (config["num_hidden_layers"], config["num_attention_heads"]) == (12, 12)
    assert (config["hidden_size"], config["intermediate_size"], config["vocab_size"]) == (768, 3072, 49408)


def test_standard_architecture_is_sd1s():
    from lib_persres.standalone.architecture import Architecture
    from lib_persres.standalone.modules import AutoencoderKL, build_unet

    standard = Architecture()
    with torch.device("meta"):
        unet, vae = build_unet(standard.unet), AutoencoderKL(standard.ddconfig, standard.embed_dim)
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863


def test_values_that_half_precision_cannot_hold_are_not_saved(parts, tmp_path):
    unet, vae, text = parts
    weight = vae.quant_conv.bias
    kept = weight[0].item()
    try:
        weight[0] = 1e6
        with pytest.raises(PersresError, match="quant_conv.bias"):
            save_sd1(tmp_path / "big.safetensors", unet, vae, text)
    finally:
        weight[0] = kept
    assert list(tmp_path.iterdir()) == []


def test_config_folder_is_readable_by_transformers(saved):
    config = json.loads((saved.parent / "text_encoder" / "config.json").read_text())
    assert config["hidden_act"] == "quick_gelu" and config["vocab_size"] == 49408
