"""Every module of the three families is found by every program's name for it."""

import pytest
import torch

pytest.importorskip("ldm")

from lib_persres.lora.names import TEXT, UNET, diffusers_path, kohya_name, read_name, text_path, unet_path
from lib_persres.standalone.full_sizes import UNETS
from lib_persres.standalone.modules import build_unet
from lib_persres.targets import EVERY
from lib_persres.unet import find_targets


@pytest.fixture(scope="module", params=["SD1", "SD2", "SDXL"])
def modules(request):
    with torch.device("meta"):
        return request.param, [target.path for target in find_targets(build_unet(UNETS[request.param]), EVERY)]


def test_every_module_is_found_by_every_name_of_it(modules):
    family, paths = modules
    assert len(paths) > 200
    for path in paths:
        theirs = diffusers_path(path, family)
        flat = theirs.replace(".", "_")
        for name in (
            f"{kohya_name(path, family)}.lora_down.weight",
            f"lora_unet_{flat}.lora_down.weight",
            f"lora_unet_{path.replace('.', '_')}.lora_down.weight",
            f"diffusion_model_{path.replace('.', '_')}.lora_down.weight",
            f"unet.{theirs}.lora_A.weight",
            f"unet.{theirs}.lora_A.default.weight",
            f"base_model.model.unet.{theirs}.lora_A.weight",
            f"base_model.model.{theirs}.lora_A.weight",
            f"unet.{theirs}.lora_A.my-1.weight",
            f"{theirs}.lora_A.weight",
            f"{path}.lora_A.weight",
            f"unet.{theirs}.lora.down.weight",
        ):
            found = read_name(name)
            assert found and (found.where, found.part) == (UNET, "down"), name
            assert unet_path(found.module, family) == path, name


def test_no_two_modules_have_one_name(modules):
    family, paths = modules
    assert len({kohya_name(path, family) for path in paths}) == len(paths)
    assert len({diffusers_path(path, family) for path in paths}) == len(paths)


def test_diffusers_own_module_lists_have_these_paths():
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel()  # its defaults are SD1's shape
    theirs = {name for name, module in unet.named_modules() if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))}
    with torch.device("meta"):
        ours = [target.path for target in find_targets(build_unet(UNETS["SD1"]), EVERY)]
    assert {diffusers_path(path, "SD1") for path in ours} == theirs


@pytest.mark.parametrize("attention", ["to_q", "to_k", "to_v", "to_out"])
def test_diffusers_old_processors(attention):
    name = f"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.{attention}_lora.up.weight"
    found = read_name(name)
    end = "to_out.0" if attention == "to_out" else attention
    assert found.part == "up"
    assert unet_path(found.module, "SD1") == f"input_blocks.4.1.transformer_blocks.0.attn2.{end}"


@pytest.mark.parametrize(
    "name, encoder",
    [
        ("lora_te_text_model_encoder_layers_3_self_attn_q_proj.lora_up.weight", 0),
        ("lora_te1_text_model_encoder_layers_3_self_attn_q_proj.lora_up.weight", 1),
        ("lora_te2_text_model_encoder_layers_3_self_attn_q_proj.lora_up.weight", 2),
        ("text_encoder.text_model.encoder.layers.3.self_attn.q_proj.lora_linear_layer.up.weight", 0),
        ("text_encoder.text_model.encoder.layers.3.self_attn.q_proj.lora_B.weight", 0),
        ("text_encoder.encoder.layers.3.self_attn.q_proj.lora_B.weight", 0),
        ("text_encoder_2.text_model.encoder.layers.3.self_attn.q_proj.lora_B.weight", 2),
        ("base_model.model.text_model.encoder.layers.3.self_attn.q_proj.lora_B.weight", 0),
    ],
)
def test_text_encoders(name, encoder):
    found = read_name(name)
    assert found and (found.where, found.encoder, found.part) == (TEXT, encoder, "up")
    assert text_path(found.module) == "text_model.encoder.layers.3.self_attn.q_proj"


@pytest.mark.parametrize("end, part", [("mlp_fc1", "mlp.fc1"), ("self_attn_out_proj", "self_attn.out_proj")])
def test_parts_of_a_text_encoders_layer(end, part):
    assert text_path(f"text_model_encoder_layers_11_{end}") == f"text_model.encoder.layers.11.{part}"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "alpha",
        ".alpha",
        "lora_unet_x",
        "model.diffusion_model.out.2.weight",
        "emb_params",
        "lora_down.weight",
        "x" * 9999,
    ],
)
def test_other_names_are_none(name):
    found = read_name(name)
    assert found is None or unet_path(found.module, "SD1") is None


@pytest.mark.parametrize(
    "module",
    [
        "",
        "down_blocks_0",
        "down_blocks_0_attentions_0_norm",
        "up_blocks_1_attentions_0_transformer_blocks_0_attn3_to_q",
    ],
)
def test_modules_that_no_unet_has(module):
    assert unet_path(module, "SD1") is None and text_path(module) is None
