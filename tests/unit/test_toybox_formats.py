"""The Toybox in SD2's and SDXL's formats: the same numbers from networks of their shapes, and `toybox convert`.

The families' own classes draw with its files in `tests/webui/test_formats.py`.
"""

import contextlib
import dataclasses
import io
import json

import pytest
import torch
import torch.nn.functional as F
import yaml
from longhand_open_clip import OpenClip
from rounding import PICTURE, PRODUCT, assert_near, relative
from safetensors import safe_open
from torch import nn

from lib_persres.commands import main
from lib_persres.conditioning import Conditioning
from lib_persres.errors import PersresError
from lib_persres.sampler import noise_for, sample
from lib_persres.standalone.checkpoint import load
from lib_persres.standalone.modules import SDPACrossAttention, build_unet
from lib_persres.toybox import CHECKPOINT, is_converted
from lib_persres.toybox.formats import FAMILIES, SECOND_WIDTH, TEXT, UNET, converted, open_clip_configs

CONFIG = json.loads((CHECKPOINT.parent / "text_encoder" / "config.json").read_text())
PROMPTS = ["a photo of a red ball on grass", "a blue star left of a green box on sand"]
DOUBLE = 1e-10
"""Of the largest value, between two float64 computations of one network."""


@pytest.fixture(scope="module")
def toybox():
    return load(CHECKPOINT, "cpu")


@pytest.fixture(scope="module")
def original():
    """Every tensor of the file, and its yaml."""
    with safe_open(CHECKPOINT, "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}
    return state, yaml.safe_load(CHECKPOINT.with_suffix(".yaml").read_text())


@pytest.fixture(scope="module")
def family(original):
    """Each family's state and yaml."""
    return {family: converted(*original, family) for family in FAMILIES}


def unet_of(state: dict, params: dict, dtype: torch.dtype = torch.float64):
    unet = build_unet(params)
    names = {name.removeprefix(UNET): tensor for name, tensor in state.items() if name.startswith(UNET)}
    unet.load_state_dict({name: t for name, t in names.items() if not name.startswith("label_emb.")})
    return unet.to(dtype).eval().requires_grad_(False)


SPATIAL = "spatial_transformer_attn_type"


def sgm_params(sidecar: dict) -> dict:
    """What ldm's UNet is told where sgm's has these; ldm's knows no `sequential` classes."""
    params = dict(sidecar["model"]["params"]["network_config"]["params"], image_size=16, transformer_depth=1)
    return {name: params[name] for name in params if name not in ("adm_in_channels", "num_classes", SPATIAL)}


@pytest.fixture(scope="module")
def call():
    """(x, timesteps, context) for the UNet of the SD1 file, in float64."""
    generator = torch.Generator().manual_seed(1)
    x, context = (
        torch.randn(shape, generator=generator).double() for shape in ((2, 4, 16, 16), (2, 77, CONFIG["hidden_size"]))
    )
    return x, torch.tensor([900, 40]), context


@pytest.fixture(scope="module")
def eps(original, call):
    state, sidecar = original
    return unet_of(state, sidecar["model"]["params"]["unet_config"]["params"])(*call)


def test_the_unet_of_sd2_predicts_the_same(family, call, eps):
    state, sidecar = family["SD2"]
    unet = unet_of(state, sidecar["model"]["params"]["unet_config"]["params"])
    assert isinstance(unet.middle_block[1].proj_out, nn.Linear)
    assert_near(unet(*call), eps, DOUBLE)


def test_the_unet_of_sdxl_predicts_the_same_whatever_the_second_encoder_says(family, call, eps):
    state, sidecar = family["SDXL"]
    unet = unet_of(state, sgm_params(sidecar))
    x, timesteps, context = call
    second = 100 * torch.randn(2, 77, SECOND_WIDTH, generator=torch.Generator().manual_seed(2)).double()
    assert_near(unet(x, timesteps, torch.cat([context, second], dim=-1)), eps, DOUBLE)


def test_sdxls_vector_is_read_and_ignored(family):
    state, sidecar = family["SDXL"]
    network = sidecar["model"]["params"]["network_config"]["params"]
    first, last = (
        [state[f"{UNET}label_emb.0.{layer}.{kind}"].float() for kind in ("weight", "bias")] for layer in (0, 2)
    )
    vector = torch.randn(3, network["adm_in_channels"], generator=torch.Generator().manual_seed(0))
    hidden = F.silu(F.linear(vector, *first))
    assert hidden.std() > 0.1
    out = F.linear(hidden, *last)
    assert out.shape == (3, 4 * network["model_channels"]) and not out.any()


def test_the_attentions_keep_their_heads(original, family):
    def heads(state, params):
        unet = unet_of(state, params, torch.float16)
        return [module.heads for module in unet.modules() if isinstance(module, SDPACrossAttention)]

    before = heads(original[0], original[1]["model"]["params"]["unet_config"]["params"])
    sd2, sdxl = family["SD2"], family["SDXL"]
    assert set(before) == {4}
    assert heads(sd2[0], sd2[1]["model"]["params"]["unet_config"]["params"]) == before
    assert heads(sdxl[0], sgm_params(sdxl[1])) == before


@pytest.fixture(scope="module")
def open_clip(family):
    """SD2's text encoder, and the ids (b, 77) of texts as OpenCLIP pads them, with 0."""
    (config,) = open_clip_configs(CONFIG, "SD2").values()
    prefix = "cond_stage_model.model."
    state = {name.removeprefix(prefix): t for name, t in family["SD2"][0].items() if name.startswith(prefix)}
    tower = OpenClip(**config["text_cfg"])
    projection, scale = state.pop("text_projection"), state.pop("logit_scale")
    assert projection.shape == (config["embed_dim"],) * 2 and scale.shape == ()
    tower.load_state_dict(state)
    return tower.eval().requires_grad_(False)


def padded_with_0(ids: torch.Tensor) -> torch.Tensor:
    end = ids == ids.max()
    return torch.where(end & (end.cumsum(-1) > 1), 0, ids)


def test_the_text_encoder_of_sd2_says_the_same_with_its_own_padding(toybox, open_clip):
    conditioning, ids = toybox.encode_prompts(PROMPTS)
    assert (padded_with_0(ids) == 0).sum() > 100
    assert_near(open_clip(padded_with_0(ids)), conditioning.context, PRODUCT)


def test_without_the_ends_embedding_the_padding_would_say_something_else(toybox, original, open_clip):
    conditioning, ids = toybox.encode_prompts(PROMPTS)
    rows = open_clip.token_embedding.weight
    mended = rows[0].clone()
    rows[0] = original[0][TEXT + "embeddings.token_embedding.weight"][0]
    try:
        assert relative(open_clip(padded_with_0(ids)), conditioning.context) > 100 * PRODUCT
    finally:
        rows[0] = mended


def test_sd2s_weights_draw_the_same_pictures(toybox, family, open_clip):
    state, sidecar = family["SD2"]
    unet = unet_of(state, sidecar["model"]["params"]["unet_config"]["params"], torch.float32)
    noise = noise_for([1, 2], (4, 16, 16))
    drawn = []
    for sd in (toybox, dataclasses.replace(toybox, unet=unet)):
        conditioning, ids = toybox.encode_prompts(PROMPTS)
        uncond, none = toybox.encode_prompts([""])
        if sd is not toybox:
            conditioning, uncond = (Conditioning(open_clip(padded_with_0(each))) for each in (ids, none))
        drawn.append(sd.decode_latents(sample(sd, conditioning, uncond, noise, steps=4)))
    assert drawn[0].std() > 0.1
    assert_near(drawn[1], drawn[0], PICTURE)


def test_nothing_but_names_and_shapes_of_the_autoencoder_is_touched(original, family):
    for state, _ in family.values():
        first_stage = [name for name in original[0] if name.startswith("first_stage_model.")]
        assert first_stage and all(torch.equal(state[name], original[0][name]) for name in first_stage)


def test_what_is_given_stays_as_it_is(original):
    state, sidecar = original
    before, shapes = yaml.safe_dump(sidecar), {name: tensor.shape for name, tensor in state.items()}
    for family in FAMILIES:
        converted(state, sidecar, family)
    assert yaml.safe_dump(sidecar) == before and {name: tensor.shape for name, tensor in state.items()} == shapes


# -- refusals ------------------------------------------------------------------------------------------------


def without(state: dict, prefix: str) -> dict:
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}


@pytest.mark.parametrize("part", ["model.diffusion_model.", "first_stage_model.", "cond_stage_model."])
def test_a_model_without_one_of_its_parts_is_refused(original, part):
    with pytest.raises(PersresError, match=f"no SD1 model: it has no .*{part}"):
        converted(without(original[0], part), original[1], "SD2")


def test_other_families_and_converted_models_are_refused(original, family):
    with pytest.raises(PersresError, match="SD3.*SD2 and SDXL"):
        converted(*original, "SD3")
    with pytest.raises(PersresError, match="no text encoder"):
        converted(*family["SD2"], "SDXL")
    linear = {**original[0], **{name: t for name, t in family["SD2"][0].items() if name.startswith(UNET)}}
    with pytest.raises(PersresError, match="linear projections already"):
        converted(linear, original[1], "SD2")
    with pytest.raises(PersresError, match="v1-inference.yaml"):
        converted(original[0], {"model": {}}, "SD2")


@pytest.mark.parametrize("change", [{"linear_end": 0.02}, {"timesteps": 500}, {"parameterization": "v"}])
def test_sdxls_format_takes_no_other_schedule(original, change):
    state, sidecar = original
    other = {"model": {**sidecar["model"], "params": {**sidecar["model"]["params"], **change}}}
    with pytest.raises(PersresError, match=f"{next(iter(change))} .* SDXL"):
        converted(state, other, "SDXL")
    assert converted(state, other, "SD2")[1]["model"]["params"].items() >= change.items()


@pytest.mark.parametrize(
    "name", ["embeddings.token_embedding", "embeddings.position_embedding", "encoder.layers.0.mlp.fc1"]
)
def test_a_text_encoder_of_other_sizes_is_refused(original, name):
    state = dict(original[0])
    state[f"{TEXT}{name}.weight"] = state[f"{TEXT}{name}.weight"][:-1]
    with pytest.raises(PersresError, match="OpenCLIP has no place for"):
        converted(state, original[1], "SD2")


@pytest.mark.parametrize("change", [{"hidden_act": "gelu"}, {"layer_norm_eps": 1e-6}])
def test_a_text_encoder_that_computes_otherwise_is_refused(change):
    with pytest.raises(PersresError, match="quick_gelu"):
        open_clip_configs({**CONFIG, **change}, "SD2")


# -- the command ---------------------------------------------------------------------------------------------


def run(*command) -> tuple[int, str]:
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = main(["toybox", "convert", *map(str, command)])
    return status, output.getvalue().strip()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_command_writes_all_that_reading_needs(name, family, tmp_path):
    out = tmp_path / "new folder" / "small.safetensors"
    status, text = run("--family", name.lower(), "--out", out)
    assert status == 0 and text == f"{out}, with small.yaml and small_text_encoder beside it, which belong to it"
    assert out.stat().st_size <= 40e6
    with safe_open(out, "pt") as file:
        assert set(file.keys()) == set(family[name][0])
        assert all(torch.equal(file.get_tensor(key), tensor) for key, tensor in family[name][0].items())
    params = yaml.safe_load(out.with_suffix(".yaml").read_text())["model"]["params"]
    folder = out.with_name("small_text_encoder")
    if name == "SD2":
        encoder = params["cond_stage_config"]["params"]
    else:
        clip, encoder = (one["params"] for one in params["conditioner_config"]["params"]["emb_models"][:2])
        assert clip["version"] == folder.name
    assert (folder / f"{encoder['arch']}.json").is_file() and not encoder["version"]
    assert {path.name for path in folder.iterdir()} >= {"config.json", "vocab.json", "merges.txt"}
    assert load(out, "cpu").family == name
    assert is_converted(out) and not is_converted(CHECKPOINT) and not is_converted(out.with_name("missing"))


def test_a_converted_file_of_another_name_is_read_with_its_own_folder(tmp_path):
    for name in FAMILIES:
        assert run("--family", name, "--out", tmp_path / f"{name}.safetensors")[0] == 0
        for suffix in (".safetensors", ".yaml", "_text_encoder"):
            (tmp_path / f"{name}{suffix}").rename(tmp_path / f"renamed-{name}{suffix}")
        assert load(tmp_path / f"renamed-{name}.safetensors", "cpu").family == name


def test_the_command_replaces_nothing_unasked(tmp_path):
    out = tmp_path / "a.safetensors"
    out.with_suffix(".yaml").write_text("mine")
    status, text = run("--family", "SD2", "--out", out)
    assert status == 1 and "a.yaml already exists" in text and "--force" in text
    assert [path.name for path in tmp_path.iterdir()] == ["a.yaml"]
    assert run("--family", "SD2", "--out", out, "--force")[0] == 0


def test_the_command_writes_safetensors_alone(tmp_path):
    status, text = run("--family", "SD2", "--out", tmp_path / "a.ckpt")
    assert status == 1 and ".safetensors" in text and len(text.splitlines()) == 1
    assert not list(tmp_path.iterdir())
