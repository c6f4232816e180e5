"""Residuals in diffusers' own pipelines, against this project's sampler on ldm's modules with the same weights."""

import warnings

import pytest
import torch
import yaml
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, create_unet_diffusers_config_from_ldm
from rounding import PICTURE, assert_near
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from lib_persres.errors import PersresError
from lib_persres.residual import Factors, Metadata, Residual
from lib_persres.sampler import noise_for
from lib_persres.standalone import pipeline as persres
from lib_persres.standalone import weights
from lib_persres.standalone.checkpoint import load
from lib_persres.standalone.generate import generate
from lib_persres.standalone.ldm_view import ldm_view
from lib_persres.standalone.tokenizer import Tokenizer
from lib_persres.toybox import CHECKPOINT
from lib_persres.toybox.formats import converted
from lib_persres.unet import find_targets

PROMPT = "a photo of a V* ball on grass"
SIZE = {"width": 64, "height": 64}
STEPS = 4


def of_toybox(family="SD1"):
    """diffusers' UNet with the Toybox's weights in a family's format, by diffusers' own converter."""
    state, description = read(family)
    config = create_unet_diffusers_config_from_ldm(description, state)
    if family == "SDXL":  # which it knows by the full size's context alone
        vector = description["model"]["params"]["network_config"]["params"]["adm_in_channels"]
        config |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 256, "class_embed_type": None}
        config["projection_class_embeddings_input_dim"] = vector
    unet = UNet2DConditionModel(**config).eval().requires_grad_(False)
    unet.load_state_dict(convert_ldm_unet_checkpoint(state, unet.config))
    return unet


def read(family):
    description = yaml.safe_load(CHECKPOINT.with_suffix(".yaml").read_text(encoding="utf-8"))
    with weights.opened(CHECKPOINT) as stored:
        state = {name: tensor.read().float() for name, tensor in stored.items()}
    return (state, description) if family == "SD1" else converted(state, description, family)


def tiny_vae():
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    return AutoencoderKL(block_out_channels=[4] * 4, norm_num_groups=2, layers_per_block=1, **kinds).eval()


def scheduler():
    """ldm's DDIM."""
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return DDIMScheduler(**schedule, clip_sample=False, set_alpha_to_one=False, steps_offset=1)


@pytest.fixture(scope="module")
def sd():
    return load(CHECKPOINT, "cpu")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    Tokenizer.find(CHECKPOINT.parent / "text_encoder").write_vocabulary(folder)
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


@pytest.fixture(scope="module")
def pipe(sd, tokenizer):
    made = StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=sd.text.transformer,
        tokenizer=tokenizer,
        unet=of_toybox(),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


def residual(unet, seed, identifier="olis", macro_class="ball", targets="proj_out", **facts):
    generator = torch.Generator().manual_seed(seed)
    metadata = Metadata(identifier=identifier, macro_class=macro_class, **facts)
    made = Residual.initialise(unet, "4", generator, metadata, targets)
    for path, f in made.factors.items():
        made.factors[path] = Factors(f.down, 0.2 * torch.randn(f.up.shape, generator=generator))
    return made


@pytest.fixture(scope="module")
def rex(sd):
    return residual(sd.unet, 1)


@pytest.fixture(scope="module")
def mia(sd):
    return residual(sd.unet, 2, "phol", "box")


def draw(pipe, sd, prompt, seeds=(3,), **options):
    """Pictures, decoded by the Toybox's own autoencoder."""
    noise = noise_for(list(seeds), (4, 8, 8))
    given = {**SIZE, "num_inference_steps": STEPS, "latents": noise, "output_type": "latent"}
    options = {"guidance_scale": 6.0, **options}
    if isinstance(prompt, str) and len(seeds) > 1:
        given["num_images_per_prompt"] = len(seeds)
    return sd.decode_latents(pipe(prompt, **given, **options).images)


def ours(sd, prompt, shelf, seeds=(3,), **options):
    return generate(sd, prompt, shelf.__getitem__, seeds=seeds, **SIZE, steps=STEPS, **options).images


def snapshot(pipe):
    hooks = [
        len(m._forward_hooks) + len(m._forward_pre_hooks) for m in (*pipe.unet.modules(), *pipe.text_encoder.modules())
    ]
    return sum(hooks), "encode_prompt" in vars(pipe)


# -- ldm's names


@pytest.mark.parametrize("family", ["SD1", "SD2", "SDXL"])
def test_every_layer_with_weights_has_the_name_and_sides_that_ldms_own_has(sd, family):
    """By the state dict from which diffusers' converter made the UNet."""
    prefix = "model.diffusion_model."
    state, _ = read(family)
    view = ldm_view(of_toybox(family))
    expected = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    found = view.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_blocks_and_targets_come_in_ldms_order(sd):
    view = ldm_view(of_toybox())
    for rule in ("proj_out", "attn1+attn2"):  # of all targets the order within a block is each one's own
        assert [t.path for t in find_targets(view, rule)] == [t.path for t in find_targets(sd.unet, rule)]
        assert [t.widths for t in find_targets(view, rule)] == [t.widths for t in find_targets(sd.unet, rule)]


def test_a_transformer_is_refused_in_words():
    with pytest.raises(PersresError, match="Linear is not built like the UNet"):
        ldm_view(torch.nn.Linear(2, 2))


# -- pictures


def test_without_a_residual_the_pipeline_draws_what_the_sampler_does(pipe, sd):
    assert_near(
        draw(pipe, sd, "a photo of a red ball on grass"), ours(sd, "a photo of a red ball on grass", {}), PICTURE
    )


@pytest.mark.parametrize("lag", [False, True])
@pytest.mark.parametrize("prompt", [PROMPT, "a V* ball and a blue box", "a blue box"])
def test_it_draws_with_a_residual_what_the_sampler_does(pipe, sd, rex, lag, prompt):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the last prompt does not ask for it, which is said
        with persres.on(pipe, {"rex": rex}, lag=lag) as acting:
            found = draw(acting, sd, prompt)
    assert_near(found, ours(sd, f"<persres:rex>{prompt}", {"rex": rex}, lag=lag), PICTURE)


def test_a_batch_of_prompts_and_a_count_of_pictures_each_have_their_own(pipe, sd, rex):
    prompts = [PROMPT, "a photo of a V* ball at night"]
    with persres.on(pipe, {"rex": rex}, lag=True):
        both = draw(pipe, sd, prompts, seeds=(3, 4))
        two = draw(pipe, sd, PROMPT, seeds=(3, 4))
    for index, (prompt, seed) in enumerate(zip(prompts, (3, 4))):
        for found, text in ((both, prompt), (two, PROMPT)):
            expected = ours(sd, f"<persres:rex>{text}", {"rex": rex}, (seed,), lag=True)
            assert_near(found[index : index + 1], expected, PICTURE)


def test_several_concepts_have_their_places_and_tags_their_strengths(pipe, sd, rex, mia):
    prompt = "a V1* ball and a V2* box <persres:mia:0.5:lag=off>"
    with persres.on(pipe, {"rex": rex, "mia": mia}, lag=True):
        found = draw(pipe, sd, prompt)
    assert_near(found, ours(sd, f"<persres:rex>{prompt}", {"rex": rex, "mia": mia}, lag=True), PICTURE)


def test_the_negative_prompt_and_no_guidance(pipe, sd, rex):
    with persres.on(pipe, {"rex": rex}, lag=True):
        found = draw(pipe, sd, PROMPT, negative_prompt="blurry")
        alone = draw(pipe, sd, PROMPT, guidance_scale=1.0)
    asked = f"<persres:rex>{PROMPT}"
    assert_near(found, ours(sd, asked, {"rex": rex}, lag=True, negative="blurry"), PICTURE)
    assert_near(alone, ours(sd, asked, {"rex": rex}, lag=True, guidance=1.0), PICTURE)


def test_a_learned_word_takes_the_identifiers_place(pipe, sd, rex):
    word = torch.randn(sd.token_embedding.embedding_dim, generator=torch.Generator().manual_seed(5))
    facts = Metadata(identifier="olis", macro_class="ball", targets="embedding+proj_out")
    learned = Residual(rex.factors, facts, {"olis": word})
    with persres.on(pipe, {"rex": learned}):
        found = draw(pipe, sd, PROMPT)
    assert_near(found, ours(sd, f"<persres:rex>{PROMPT}", {"rex": learned}), PICTURE)


def test_afterwards_the_pipeline_is_as_it_was_even_after_a_fault(pipe, sd, rex):
    before, image = snapshot(pipe), draw(pipe, sd, "a olis ball")
    with persres.on(pipe, {"rex": rex}, lag=True):
        assert not torch.equal(draw(pipe, sd, "a V* ball"), image)
    assert snapshot(pipe) == before and torch.equal(draw(pipe, sd, "a olis ball"), image)
    with pytest.raises(RuntimeError, match="broken"), persres.on(pipe, {"rex": rex}):
        draw(pipe, sd, "a V* ball", callback_on_step_end=broken)
    assert snapshot(pipe) == before and torch.equal(draw(pipe, sd, "a olis ball"), image)


def broken(pipe, step, t, tensors):
    raise RuntimeError("broken by the test")


def test_files_have_the_names_of_their_stems(pipe, sd, rex, tmp_path):
    rex.save(tmp_path / "rex.safetensors")
    with persres.on(pipe, tmp_path / "rex.safetensors"):
        found = draw(pipe, sd, PROMPT + " <persres:rex:0.5>")
    shelf = {"rex": Residual.load(tmp_path / "rex.safetensors")}
    assert_near(found, ours(sd, f"<persres:rex:0.5>{PROMPT}", shelf), PICTURE)


# -- what cannot be


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda pipe, rex: persres.on(pipe, []), "no residual to act"),
        (lambda pipe, rex: persres.on(pipe, {"rex": rex}, mask="round"), "round"),
        (lambda pipe, rex: persres.on(pipe, ["missing.safetensors"]), "missing.safetensors"),
    ],
)
def test_what_cannot_act_is_refused_before_anything_is_changed(pipe, rex, call, words):
    before = snapshot(pipe)
    with pytest.raises(PersresError, match=words), call(pipe, rex):
        pass
    assert snapshot(pipe) == before


def test_what_a_call_cannot_draw_is_refused_in_words(pipe, sd, rex):
    with persres.on(pipe, {"rex": rex}):
        with pytest.raises(PersresError, match="V3"):
            draw(pipe, sd, "a V3* ball")
        with pytest.raises(PersresError, match="<persres:tom>, which is none of rex"):
            draw(pipe, sd, "a V* ball <persres:tom>")
        with pytest.raises(PersresError, match="give the prompt, not its embeddings"):
            draw(pipe, sd, None, prompt_embeds=torch.zeros(1, 77, 96), negative_prompt_embeds=torch.zeros(1, 77, 96))


@pytest.mark.parametrize("prompt", [["a V* ball", 5], [["a V* ball"]], []])
def test_a_prompt_that_is_no_text_is_refused_in_words(pipe, sd, rex, prompt):
    with persres.on(pipe, {"rex": rex}), pytest.raises(PersresError, match="a text or a list of texts"):
        pipe.encode_prompt(prompt, "cpu", 1, True)


def test_one_at_a_time_acts_in_a_pipeline(pipe, sd, rex, mia):
    before = snapshot(pipe)
    with persres.on(pipe, {"rex": rex}):
        with pytest.raises(PersresError, match="act in this pipeline already"), persres.on(pipe, {"mia": mia}):
            pass
        assert_near(draw(pipe, sd, PROMPT), ours(sd, f"<persres:rex>{PROMPT}", {"rex": rex}), PICTURE)
    assert snapshot(pipe) == before


def test_what_a_user_should_know_is_told(pipe, sd, rex):
    with pytest.warns(UserWarning, match=r"V\* is not in the prompt"), persres.on(pipe, {"rex": rex}):
        draw(pipe, sd, "a red ball")


# -- SDXL


@pytest.fixture(scope="module")
def sdxl(sd, tokenizer):
    """The Toybox's UNet in SDXL's format and a second text encoder of random numbers."""
    unet = of_toybox("SDXL")
    width = unet.config.cross_attention_dim - sd.text.transformer.config.hidden_size
    pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    with torch.random.fork_rng():
        torch.manual_seed(0)
        second = CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=49408, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
                num_attention_heads=4, projection_dim=pooled, eos_token_id=49407,
            )
        )  # fmt: skip
    made = StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=sd.text.transformer,
        text_encoder_2=second.eval(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=scheduler(),
        add_watermarker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


def test_in_sdxl_a_residual_is_its_sum_with_the_weights(sdxl, sd, rex):
    plain = draw(sdxl, sd, "a photo of a olis ball on grass")
    with persres.on(sdxl, {"rex": rex}):
        found = draw(sdxl, sd, PROMPT)
    view = ldm_view(sdxl.unet)
    before = {target.path: target.module.weight.clone() for target in find_targets(view, "proj_out")}
    try:
        for target in find_targets(view, "proj_out"):
            target.module.weight.add_(rex.factors[target.path].delta())
        expected = draw(sdxl, sd, "a photo of a olis ball on grass")
    finally:
        for target in find_targets(view, "proj_out"):
            target.module.weight.copy_(before[target.path])
    assert_near(found, expected, PICTURE)
    assert (found - plain).abs().mean() > 0.02


def test_in_sdxl_lag_lies_between_plain_and_the_base_model(sdxl, sd, rex):
    base = draw(sdxl, sd, "a photo of a olis ball on grass")
    with persres.on(sdxl, {"rex": rex}):
        plain = draw(sdxl, sd, PROMPT)
    with persres.on(sdxl, {"rex": rex}, lag=True):
        lag = draw(sdxl, sd, PROMPT)
    assert (lag - plain).abs().mean() > 0.01 and (lag - base).abs().mean() > 0.01


def test_in_sdxl_a_word_is_learned_for_both_text_encoders(sdxl, sd, rex):
    widths = [encoder.get_input_embeddings().embedding_dim for encoder in (sdxl.text_encoder, sdxl.text_encoder_2)]
    words = {f"{name}.olis": torch.randn(width) for name, width in zip(("clip_l", "clip_g"), widths)}
    facts = Metadata(identifier="olis", macro_class="ball", targets="embedding+proj_out")
    plain = draw(sdxl, sd, "a photo of a olis ball on grass")
    with persres.on(sdxl, {"rex": Residual(rex.factors, facts, words)}):
        assert not torch.equal(draw(sdxl, sd, PROMPT + "<persres:rex:0>"), plain)
    one = Residual(rex.factors, facts, {"olis": torch.randn(widths[0])})
    with pytest.raises(PersresError, match="where this model's text encoder has"), persres.on(sdxl, {"rex": one}):
        pass
