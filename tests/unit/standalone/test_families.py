"""SD2's and SDXL's checkpoints outside of any WebUI: the Toybox's weights in their formats draw and learn the same."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import yaml
from longhand_open_clip import OpenClip
from PIL import Image
from rounding import NETWORK, PICTURE, assert_near
from safetensors.torch import load_file, save_file

from lib_persres.commands import main
from lib_persres.errors import PersresError
from lib_persres.parameterization import EPS, V, with_zero_terminal_snr
from lib_persres.residual import Factors, Metadata, Residual
from lib_persres.standalone.checkpoint import load
from lib_persres.standalone.full_sizes import UNETS
from lib_persres.standalone.generate import generate
from lib_persres.standalone.modules import build_unet
from lib_persres.toybox import CHECKPOINT
from lib_persres.training.images import Photo
from lib_persres.training.loop import train
from lib_persres.training.recipe import Recipe, Stage
from lib_persres.unet import find_blocks

FAMILIES = ("SD2", "SDXL")
PROMPT = "a photo of a V* ball on grass"
SIZE = {"width": 64, "height": 64}
NEGATIVE = "blurry"
"""An empty one is zeros to SDXL, which say something else."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    for family in FAMILIES:
        main(["toybox", "convert", "--family", family, "--out", str(folder / f"{family}.safetensors")])
    return {"SD1": CHECKPOINT, **{family: folder / f"{family}.safetensors" for family in FAMILIES}}


@pytest.fixture(scope="module")
def models(files):
    return {family: load(path, "cpu") for family, path in files.items()}


@pytest.fixture(scope="module")
def rex(models):
    generator = torch.Generator().manual_seed(1)
    made = Residual.initialise(models["SD1"].unet, "4", generator, Metadata(identifier="olis", macro_class="ball"))
    for path, f in made.factors.items():
        made.factors[path] = Factors(f.down, 0.2 * torch.randn(f.up.shape, generator=generator))
    return made


def of_family(residual, family, **changes):
    return dataclasses.replace(residual, metadata=dataclasses.replace(residual.metadata, base_family=family), **changes)


def draw(sd, prompt, residual=None, **options):
    given = {"seeds": (3,), "steps": 4, "negative": NEGATIVE, **SIZE, **options}
    return generate(sd, prompt, lambda name: of_family(residual, sd.family), **given).images


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_tells_itself_and_its_sizes(models, family):
    sd = models[family]
    assert (sd.family, sd.parameterization) == (family, EPS)
    assert list(sd.token_tables) == ([""] if family == "SD2" else ["clip_l", "clip_g"])
    assert sd.scale_factor == models["SD1"].scale_factor


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompt", ["a red ball on grass", "a (red:1.3) ball and a [blue] box"])
def test_the_same_weights_draw_the_same_pictures(models, family, prompt):
    """Emphasis scales a context to its own mean, which SDXL's second encoder changes for no one but itself."""
    assert_near(draw(models[family], prompt), draw(models["SD1"], prompt), PICTURE)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lag", [False, True])
def test_a_residual_draws_the_same_in_every_family(models, rex, family, lag):
    prompt = f"<persres:rex>{PROMPT}"
    expected = draw(models["SD1"], prompt, rex, lag=lag)
    assert_near(draw(models[family], prompt, rex, lag=lag), expected, PICTURE)
    assert (expected - draw(models["SD1"], "a photo of a olis ball on grass")).abs().mean() > 0.01


def test_a_residual_of_another_family_is_refused_though_its_names_and_sizes_fit(models, rex):
    with pytest.raises(PersresError, match="<persres:rex>: It was made for SD1, and the loaded model is SD2"):
        generate(models["SD2"], f"<persres:rex>{PROMPT}", lambda name: rex, **SIZE, steps=1)


def test_sdxls_words_are_learned_for_both_encoders(models, rex):
    """One that changes the first encoder's alone is SD1's; the second's counts for nothing in these weights."""
    sd, generator = models["SDXL"], torch.Generator().manual_seed(4)
    widths = {name: table.embedding_dim for name, table in sd.token_tables.items()}
    words = {f"{name}.olis": torch.randn(2, width, generator=generator) for name, width in widths.items()}
    facts = dataclasses.replace(rex.metadata, targets="embedding+proj_out")
    both = Residual(rex.factors, facts, words)
    one = Residual(rex.factors, facts, {"olis": words["clip_l.olis"]})
    prompt = f"<persres:rex>{PROMPT}"
    assert_near(draw(sd, prompt, both), draw(models["SD1"], prompt, one), PICTURE)
    with pytest.raises(PersresError, match="where this model's text encoder has"):
        draw(sd, prompt, one)
    uneven = Residual(rex.factors, facts, {**words, "clip_g.olis": words["clip_g.olis"][:1]})
    with pytest.raises(PersresError, match="2 for clip_l and 1 for clip_g, which must be as many"):
        draw(sd, prompt, uneven)


def test_sdxls_vectors_are_the_pooled_text_and_the_sizes(models):
    sd = models["SDXL"]
    (given, _), (wide, _) = (sd.encode_tokens([[5, 6]], size) for size in ((64, 64), (128, 64)))
    pooled = sd.texts["clip_g"].text_projection.shape[1]
    assert given.vectors.shape == (1, pooled + 6 * 256)
    assert torch.equal(given.vectors[:, :pooled], wide.vectors[:, :pooled])
    changed = (given.vectors != wide.vectors)[0, pooled:].unflatten(0, (6, 256)).any(1)
    assert changed.tolist() == [False, True, False, False, False, True]  # height, width, top, left, height, width
    nothing, _ = sd.encode_tokens([[], [5]], (64, 64), [True, False])
    assert not nothing.context[0].any() and not nothing.vectors[0, :pooled].any()
    assert nothing.context[1].any() and nothing.vectors[0, pooled:].any()


def test_sdxls_second_encoder_is_open_clips(models, files):
    """Its last but one layer without the norm, and the projected end of the last one with it."""
    encoder, prefix = models["SDXL"].texts["clip_g"], "conditioner.embedders.1.model."
    sizes = encoder.config
    tower = OpenClip(49408, 77, sizes["hidden_size"], sizes["num_attention_heads"], sizes["num_hidden_layers"])
    state = {n.removeprefix(prefix): t.float() for n, t in load_file(files["SDXL"]).items() if n.startswith(prefix)}
    projection = state.pop("text_projection")
    state.pop("logit_scale")
    tower.load_state_dict(state)
    ids = encoder.tokenize(["a red ball", "a much longer text of a blue star on sand", ""])
    hidden, pooled = encoder.read(ids)
    states = tower.eval().states(ids)
    assert_near(hidden, states[-2], NETWORK)
    ends = [row.tolist().index(49407) for row in ids]
    assert_near(pooled, tower.ln_final(states[-1])[range(3), ends] @ projection, NETWORK)


def test_each_encoder_pads_as_it_learned_to(models):
    for family, name, padding in (("SD1", "", 49407), ("SD2", "", 0), ("SDXL", "clip_l", 49407), ("SDXL", "clip_g", 0)):
        assert models[family].texts[name].tokenize(["a"])[0].tolist() == [49406, 320, 49407] + [padding] * 74


@pytest.mark.parametrize("layer", ["last", "penultimate"])
def test_the_layer_that_a_yaml_names_is_read(models, files, tmp_path, layer):
    """Long-hand: the layers one after another, and the final norm."""
    path = tmp_path / "other.safetensors"
    path.symlink_to(files["SD2"])
    (tmp_path / "other_text_encoder").symlink_to(files["SD2"].with_name("SD2_text_encoder"))
    description = yaml.safe_load(files["SD2"].with_suffix(".yaml").read_text())
    description["model"]["params"]["cond_stage_config"]["params"]["layer"] = layer
    path.with_suffix(".yaml").write_text(yaml.safe_dump(description))
    sd = load(path, "cpu")
    ids = sd.text.tokenize(["a photo of a ball"])
    plain = models["SD2"].text.transformer(input_ids=ids, output_hidden_states=True)
    state = plain.hidden_states[-1 if layer == "last" else -2]
    own = getattr(sd.text.transformer, "text_model", sd.text.transformer)
    assert_near(sd.text(ids), own.final_layer_norm(state), NETWORK)


def test_a_model_of_v_is_known_by_its_yaml_and_by_its_marks(files, tmp_path):
    for family in FAMILIES:
        path = tmp_path / f"{family}.safetensors"
        path.symlink_to(files[family])
        path.with_name(f"{family}_text_encoder").symlink_to(files[family].with_name(f"{family}_text_encoder"))
        text = files[family].with_suffix(".yaml").read_text()
        text = text.replace("parameterization: eps", "parameterization: v").replace("EpsScaling", "VScaling")
        if family == "SD2" and "parameterization" not in text:
            text = text.replace("scale_factor:", "parameterization: v\n    scale_factor:", 1)
        path.with_suffix(".yaml").write_text(text)
        assert load(path, "cpu").parameterization == V


def beside(path, files, family):
    """What reading it needs: OpenCLIP's sizes are looked for by the file's name, CLIP's by the yaml."""
    folder = files[family].with_name(f"{family}_text_encoder")
    for name in (folder.name, f"{path.stem}_text_encoder"):
        if not (path.parent / name).exists():
            (path.parent / name).symlink_to(folder)


def marked(files, tmp_path, description: str, **marks):
    path = tmp_path / "marked.safetensors"
    save_file({**load_file(files["SDXL"]), **marks}, path)
    path.with_suffix(".yaml").write_text(description)
    beside(path, files, "SDXL")
    return load(path, "cpu")


def test_a_mark_of_zero_terminal_snr_counts_for_v_alone_and_a_yaml_before_a_mark_of_v(files, tmp_path):
    """Of pure noise, which ᾱ = 0 is, the noise says nothing about the picture."""
    own, description = load(files["SDXL"], "cpu").alphas_cumprod, files["SDXL"].with_suffix(".yaml").read_text()
    marks = {"v_pred": torch.empty(0), "ztsnr": torch.empty(0)}
    by_eps = marked(files, tmp_path, description, **marks)
    assert by_eps.parameterization == EPS and torch.equal(by_eps.alphas_cumprod, own)
    by_v = marked(files, tmp_path, description.replace("EpsScaling", "VScaling"), **marks)
    assert by_v.parameterization == V and torch.equal(by_v.alphas_cumprod, with_zero_terminal_snr(own))
    assert by_v.alphas_cumprod[-1] == 0


def test_full_sizes_are_the_families_own():
    """As the parameters of the published models are counted: SDXL 2.57, SD2 0.87 billion."""
    counts = {}
    for family, params in UNETS.items():
        with torch.device("meta"):
            counts[family] = sum(p.numel() for p in build_unet(params).parameters())
    assert counts == {"SD1": 859_520_964, "SD2": 865_910_724, "SDXL": 2_567_463_684}


# -- training


@pytest.fixture(scope="module")
def toys():
    return [Photo(scene(number), f"{number}.png", str(number)) for number in range(3)]


def scene(number):
    generator = torch.Generator().manual_seed(number)
    pixels = torch.rand(8, 8, 3, generator=generator).repeat_interleave(8, 0).repeat_interleave(8, 1)
    return Image.fromarray((255 * pixels).to(torch.uint8).numpy())


def learn(sd, photos, targets="proj_out", **stage):
    stages = (Stage(rank="2", steps=3, batch=2, learning_rate=1e-2, targets=targets, **stage),)
    return train(sd, photos, "rex", "ball", Recipe("test", "a test's", stages, crops=0), resolution=64, seed=5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_learns_what_sd1_does(models, toys, family):
    """By the largest change, since AdamW makes much of what is next to nothing."""
    expected, found = learn(models["SD1"], toys, localized=1), learn(models[family], toys, localized=1)
    assert (found.metadata.base_family, found.metadata.loss.keys()) == (family, expected.metadata.loss.keys())
    for path, factors in expected.factors.items():
        change = factors.up.abs().max()
        assert change > 1e-3 and (found.factors[path].up - factors.up).abs().mean() < 0.02 * change


def test_a_model_of_v_learns_another_thing_and_draws(models, toys):
    of_v = dataclasses.replace(models["SDXL"], parameterization=V)
    found, by_eps = learn(of_v, toys), learn(models["SDXL"], toys)
    path = next(iter(found.factors))
    assert not torch.equal(found.factors[path].up, by_eps.factors[path].up)
    assert torch.isfinite(draw(of_v, "a red ball")).all()


def test_sdxl_learns_a_word_in_both_encoders(models, toys):
    found = learn(models["SDXL"], toys, "embedding")
    assert {name.split(".")[0] for name in found.embeddings} == {"clip_l", "clip_g"}
    assert torch.isfinite(draw(models["SDXL"], f"<persres:rex>{PROMPT}", found)).all()


# -- sizes and damage


def test_sdxls_own_side_is_its_autoencoders(models):
    assert models["SDXL"].side == models["SD1"].side == 128


def test_each_level_has_its_own_depth():
    """By its place: two levels may be as wide."""
    params = {**UNETS["SDXL"], "model_channels": 32, "num_head_channels": 16, "context_dim": 16, "adm_in_channels": 8}
    unet = build_unet(
        {**params, "channel_mult": [1, 2, 2], "attention_resolutions": [2, 4], "transformer_depth": [1, 2, 3]}
    )
    found = [(b.name.split(".")[:2], len(b.attentions)) for b in find_blocks(unet)]
    assert [depth for (part, _), depth in found if part == "input_blocks"] == [2, 2, 3, 3]
    assert [depth for (part, _), depth in found if part == "output_blocks"] == [3, 3, 3, 2, 2, 2]
    x, context = torch.randn(1, 4, 16, 16), torch.randn(1, 5, 16)
    assert unet(x, timesteps=torch.zeros(1), context=context, y=torch.zeros(1, 8)).shape == x.shape


def damaged(files, tmp_path, family="SDXL", change=lambda state: state, text=lambda text: text):
    path = tmp_path / "damaged.safetensors"
    save_file(change(load_file(files[family])), path)
    path.with_suffix(".yaml").write_text(text(files[family].with_suffix(".yaml").read_text()))
    beside(path, files, family)
    with pytest.raises(PersresError) as caught:
        load(path, "cpu")
    return str(caught.value)


LAYER = "conditioner.embedders.1.model.transformer.resblocks.0."


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (LAYER + "attn.in_proj_weight", (50, 16)),
        (LAYER + "mlp.c_fc.weight", (60_000_000, 0)),
        ("conditioner.embedders.1.model.positional_embedding", (77, 17)),
        ("conditioner.embedders.1.model.text_projection", (16, 25)),
    ],
)
def test_a_wrong_part_of_a_text_encoder_is_named_as_the_file_does_before_it_takes_memory(files, tmp_path, name, shape):
    told = damaged(files, tmp_path, change=lambda state: {**state, name: torch.zeros(shape, dtype=torch.float16)})
    assert "conditioner.embedders.1.model." in told and "does not fit its architecture" in told


@pytest.mark.parametrize(
    ("family", "old", "new", "words"),
    [
        ("SDXL", "image_size", "image_size", "image_size"),
        ("SDXL", "layer: penultimate", "layer: hidden", "layer is hidden"),
        ("SDXL", "legacy: false\n", "legacy: true\n", "legacy"),
        ("SDXL", "arch: toybox-second", "arch: ../toybox-second", "arch is"),
        ("SD2", "linear_start: 0.00085", "linear_start: 1.1e-09", "linear_start"),
        ("SD2", "z_channels: 4", "z_channels: 4\n          give_pre_end: true", "give_pre_end"),
        ("SD2", "layer: last", "layer: hidden", "layer is hidden"),
    ],
)
def test_a_yaml_of_no_such_model_is_refused_in_words(files, tmp_path, family, old, new, words):
    def changed(text):
        if old == "image_size":
            return text.replace("adm_in_channels:", "image_size: abc\n        adm_in_channels:")
        assert old in text
        return text.replace(old, new)

    assert words in damaged(files, tmp_path, family, text=changed)


def test_a_residual_that_does_not_tell_its_family_is_compared_by_its_shapes(models, rex):
    assert Metadata.from_strings({**rex.metadata.to_strings(), "base_family": ""}).base_family == ""
    strings = rex.metadata.to_strings()
    del strings["base_family"]
    assert Metadata.from_strings(strings).base_family == ""
    unknown = dataclasses.replace(rex.metadata, base_family="")
    generate(models["SD2"], f"<persres:rex>{PROMPT}", lambda name: Residual(rex.factors, unknown), **SIZE, steps=1)
