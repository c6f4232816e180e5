"""What is written as a LoRA is, read by diffusers' own code, the change that the residual is."""

import pytest
import safetensors.torch
import torch

pytest.importorskip("ldm")
pytest.importorskip("diffusers")

from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders.lora_conversion_utils import (
    _convert_non_diffusers_lora_to_diffusers,
    _maybe_map_sgm_blocks_to_diffusers,
)
from diffusers.utils import convert_unet_state_dict_to_peft
from pipelines import scheduler, tiny_vae

from lib_persres.lora.names import diffusers_path
from lib_persres.lora.write import save_lora
from lib_persres.residual import Factors, Metadata, Residual
from lib_persres.standalone.ldm_view import ldm_view
from lib_persres.targets import EVERY
from lib_persres.unet import find_targets

FAMILIES = ("SD1", "SD2", "SDXL")
NARROW = {"block_out_channels": (4, 4, 8, 8), "norm_num_groups": 2, "attention_head_dim": 2, "cross_attention_dim": 6}
SIZES = {
    "SD1": NARROW,
    "SD2": {**NARROW, "use_linear_projection": True},
    "SDXL": {
        **{**NARROW, "use_linear_projection": True, "block_out_channels": (4, 8, 8)},
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 3),
        **{
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 8,
        },
    },
}
"""As deep as the families' own but for SDXL's layers, and narrow."""


def tiny_unet(family):
    torch.manual_seed(0)
    return UNet2DConditionModel(**SIZES[family]).eval().requires_grad_(False)


def residual(unet, family, ranks=(1, 2, 3)):
    generator = torch.Generator().manual_seed(0)
    factors = {}
    for index, target in enumerate(find_targets(ldm_view(unet), EVERY)):
        (width_in, width), rank = target.widths, ranks[index % len(ranks)]
        down, up = (torch.randn(shape, generator=generator) for shape in ((rank, width_in), (width, rank)))
        factors[target.path] = Factors(down * width_in**-0.5, up)
    return Residual(factors, Metadata("rex", "olis", "ball", base_family=family, targets=EVERY))


@pytest.mark.parametrize("family", FAMILIES)
def test_its_converter_understands_kohyas_names(family, tmp_path):
    unet = tiny_unet(family)
    made = residual(unet, family)
    save_lora(made, tmp_path / "rex.safetensors", dtype=torch.float32)
    state = safetensors.torch.load_file(tmp_path / "rex.safetensors")
    if family == "SDXL":
        state = _maybe_map_sgm_blocks_to_diffusers(state, unet.config)
    state, alphas = _convert_non_diffusers_lora_to_diffusers(state)
    found = {name.removeprefix("unet."): tensor for name, tensor in convert_unet_state_dict_to_peft(state).items()}
    expected = {}
    for target, factors in made.factors.items():
        name = diffusers_path(target, family)
        expected |= {f"{name}.lora_A.weight": factors.down, f"{name}.lora_B.weight": factors.up}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name].flatten(1), tensor), name
    assert sorted(alphas.values()) == sorted(float(factors.rank) for factors in made.factors.values())


@pytest.mark.parametrize("form, ranks", [("diffusers", (1, 2, 3)), ("lora", (2,))])  # of kohya's it reads one alpha
@pytest.mark.parametrize("family", FAMILIES)
def test_its_pipeline_adds_just_the_residual(family, form, ranks, tmp_path):
    pytest.importorskip("peft")
    unet = tiny_unet(family)
    made = residual(unet, family, ranks)
    before = {name: module.weight.clone() for name, module in unet.named_modules() if hasattr(module, "weight")}
    save_lora(made, tmp_path / "rex.safetensors", form, torch.float32)
    parts = {"vae": tiny_vae(), "unet": unet, "scheduler": scheduler(), "text_encoder": None, "tokenizer": None}
    if family == "SDXL":
        pipe = StableDiffusionXLPipeline(**parts, text_encoder_2=None, tokenizer_2=None)
    else:
        parts |= {"safety_checker": None, "feature_extractor": None}
        pipe = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipe.load_lora_weights(tmp_path, weight_name="rex.safetensors")
    pipe.fuse_lora(components=["unet"])
    pipe.unload_lora_weights()
    after = {name: module.weight for name, module in unet.named_modules() if hasattr(module, "weight")}
    changes = {diffusers_path(target, family): factors.delta() for target, factors in made.factors.items()}
    for name, weight in after.items():
        expected = before[name] + changes[name].reshape(weight.shape) if name in changes else before[name]
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-5, msg=name)
