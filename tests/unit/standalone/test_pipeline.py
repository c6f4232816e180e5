"""Residuals in diffusers' own pipelines, against this project's sampler on ldm's modules with the same weights."""

import copy
import functools
import inspect
import re
import unicodedata
import warnings

import pytest
import torch
import yaml
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
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
from lib_persres.standalone.pipeline_texts import Texts
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


def learned_word(rex):
    word = torch.randn(96, generator=torch.Generator().manual_seed(5))
    facts = Metadata(identifier="olis", macro_class="ball", targets="embedding+proj_out")
    return Residual(rex.factors, facts, {"olis": word})


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
    return sum(hooks), dict(vars(pipe)).get("encode_prompt"), type(pipe), hasattr(pipe.unet, persres.MARK)


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
    learned = learned_word(rex)
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
    """Those of the second change nothing in these weights but what the vector is pooled of; so they are looked at."""
    encoders = {"clip_l": sdxl.text_encoder, "clip_g": sdxl.text_encoder_2}
    tables = {name: encoder.get_input_embeddings() for name, encoder in encoders.items()}
    words = {f"{name}.olis": torch.randn(table.embedding_dim) for name, table in tables.items()}
    facts = Metadata(identifier="olis", macro_class="ball", targets="embedding+proj_out", base_family="")
    plain = sdxl.encode_prompt("a photo of a olis ball on grass", device="cpu")
    with persres.on(sdxl, {"rex": Residual(rex.factors, facts, words)}):
        found = sdxl.encode_prompt(PROMPT, device="cpu")
        none = sdxl.encode_prompt(PROMPT + "<persres:rex:0>", device="cpu")
    assert torch.equal(none[0], plain[0]) and torch.equal(none[2], plain[2])
    width = tables["clip_l"].embedding_dim
    assert not torch.equal(found[0][..., :width], plain[0][..., :width])
    assert not torch.equal(found[0][..., width:], plain[0][..., width:]) and not torch.equal(found[2], plain[2])
    one = Residual(rex.factors, facts, {"olis": words["clip_l.olis"]})
    with pytest.raises(PersresError, match="where this model's text encoder has"), persres.on(sdxl, {"rex": one}):
        pass


def test_in_sdxl_the_second_prompt_has_identifiers_and_no_tags(sdxl, sd, rex):
    with persres.on(sdxl, {"rex": rex}):
        with pytest.warns(UserWarning, match="is not in the prompt"):
            found = sdxl.encode_prompt("a ball", prompt_2=PROMPT, device="cpu")[0]
        with pytest.raises(PersresError, match="A tag in prompt_2 says nothing"):
            draw(sdxl, sd, PROMPT, prompt_2="a ball <persres:rex:0.5>")
    expected = sdxl.encode_prompt("a ball", prompt_2="a photo of a olis ball on grass", device="cpu")[0]
    assert torch.equal(found, expected)


def test_in_sdxl_a_concept_that_is_elsewhere_in_the_second_prompt_is_told_under_lag(sdxl, sd, rex):
    told = []
    with persres.on(sdxl, {"rex": rex}, lag=True, tell=told.append):
        draw(sdxl, sd, PROMPT, prompt_2="a photo of a V* ball at night")
        assert told == []
        draw(sdxl, sd, PROMPT, prompt_2="the V* ball")
    assert told == ["V* is elsewhere in prompt_2 than in the prompt, where alone LAG looks for it."]


# -- what else uses the same parts


def test_nothing_acts_in_a_pipeline_that_shares_the_parts_nor_outside_of_a_call(pipe, sd, rex):
    other = StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    base = draw(pipe, sd, "a photo of a olis ball on grass")
    x, context = torch.randn(2, 4, 8, 8), torch.randn(2, 77, pipe.unet.config.cross_attention_dim)
    untouched = pipe.unet(x, 500, encoder_hidden_states=context).sample
    with persres.on(pipe, {"rex": learned_word(rex)}, lag=True):
        assert not torch.equal(draw(pipe, sd, PROMPT), base)
        assert torch.equal(draw(other, sd, "a photo of a olis ball on grass"), base)
        assert torch.equal(pipe.unet(x, 500, encoder_hidden_states=context).sample, untouched)
        assert isinstance(StableDiffusionImg2ImgPipeline.from_pipe(pipe), StableDiffusionImg2ImgPipeline)


def test_a_second_use_of_shared_parts_is_refused_while_the_first_acts(pipe, rex, mia):
    other = StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    text = StableDiffusionPipeline(**{**pipe.components, "unet": of_toybox()}, requires_safety_checker=False)
    with persres.on(pipe, {"rex": rex}):
        pipe.encode_prompt = functools.partial(pipe.encode_prompt)  # a wrapper of the user's hides nothing
        try:
            for again in (pipe, other, text):
                with pytest.raises(PersresError, match="act in this pipeline already"), persres.on(again, {"mia": mia}):
                    pass
        finally:
            del pipe.encode_prompt
    with persres.on(other, {"mia": mia}):
        pass


def test_an_encode_prompt_of_the_users_is_called_and_is_there_afterwards(pipe, sd, rex):
    seen = []

    def own(prompt, *args, **kwargs):
        seen.append(prompt)
        return type(pipe).encode_prompt(pipe, prompt, *args, **kwargs)

    kind = type(pipe)

    def before(prompt, device, num_images_per_prompt, do_classifier_free_guidance, negative_prompt=None, **kwargs):
        seen.append(prompt)
        return kind.encode_prompt(
            pipe, prompt, device, num_images_per_prompt, do_classifier_free_guidance, negative_prompt, **kwargs
        )

    expected = ours(sd, f"<persres:rex>{PROMPT}", {"rex": rex})
    pipe.encode_prompt = before
    try:
        with persres.on(pipe, {"rex": rex}):
            assert_near(draw(pipe, sd, PROMPT), expected, PICTURE)
        assert pipe.encode_prompt is before and seen == ["a photo of a olis ball on grass"]
    finally:
        del pipe.encode_prompt
    with persres.on(pipe, {"rex": rex}):
        pipe.encode_prompt = own
        assert_near(draw(pipe, sd, PROMPT), expected, PICTURE)
    assert pipe.encode_prompt is own
    del pipe.encode_prompt


@pytest.mark.parametrize("looked_up", ["before", "on the class"])
def test_a_wrapper_that_passes_on_whatever_it_gets_is_called_and_hides_nothing(pipe, sd, rex, looked_up):
    before, seen = pipe.encode_prompt, []

    def passes_on(*args, **kwargs):
        seen.append(args[0])
        if looked_up == "before":
            return before(*args, **kwargs)
        return type(pipe).encode_prompt(pipe, *args, **kwargs)

    pipe.encode_prompt = passes_on
    try:
        with persres.on(pipe, {"rex": rex}):
            found = draw(pipe, sd, PROMPT + " <persres:rex:0.5>")
        assert pipe.encode_prompt is passes_on and seen == ["a photo of a olis ball on grass"]
    finally:
        del pipe.encode_prompt
    assert_near(found, ours(sd, f"<persres:rex:0.5>{PROMPT}", {"rex": rex}), PICTURE)


def test_an_encode_prompt_that_the_user_deletes_meanwhile_stays_deleted(pipe, sd, rex):
    pipe.encode_prompt = functools.partial(pipe.encode_prompt)
    with persres.on(pipe, {"rex": rex}):
        del pipe.encode_prompt
        found = draw(pipe, sd, PROMPT)
    assert "encode_prompt" not in vars(pipe)
    assert_near(found, ours(sd, f"<persres:rex>{PROMPT}", {"rex": rex}), PICTURE)


def test_what_a_user_keeps_of_the_pipeline_does_nothing_afterwards(pipe, rex):
    plain = pipe.encode_prompt("a V* ball", "cpu", 1, False)[0]
    with persres.on(pipe, {"rex": learned_word(rex)}):
        kept, found = pipe.encode_prompt, pipe.encode_prompt("a V* ball", "cpu", 1, False)[0]
    assert torch.equal(kept("a V* ball", "cpu", 1, False)[0], plain) and not torch.equal(found, plain)


def test_texts_encoded_by_hand_leave_nothing_behind(pipe, sd, rex):
    x, context = torch.randn(2, 4, 8, 8), torch.randn(2, 77, pipe.unet.config.cross_attention_dim)
    untouched = pipe.unet(x, 500, encoder_hidden_states=context).sample
    with persres.on(pipe, {"rex": rex}):
        found = pipe.encode_prompt(PROMPT, "cpu", 1, False)[0]
        assert torch.equal(pipe.unet(x, 500, encoder_hidden_states=context).sample, untouched)
        draw(pipe, sd, PROMPT)
        assert torch.equal(pipe.unet(x, 500, context).sample, untouched)
    assert torch.equal(found, pipe.encode_prompt("a photo of a olis ball on grass", "cpu", 1, False)[0])


def test_the_context_may_be_given_by_its_place(pipe, sd, rex):
    class ByPlace(StableDiffusionPipeline):
        """One that calls its UNet so."""

        def __call__(self, *args, **kwargs):
            forward = self.unet.forward
            self.unet.forward = lambda x, t, context, **options: forward(x, t, context, **options)
            before = self.unet.register_forward_pre_hook(
                lambda module, args, kwargs: ((*args, kwargs.pop("encoder_hidden_states")), kwargs),
                with_kwargs=True,
                prepend=True,
            )
            try:
                return super().__call__(*args, **kwargs)
            finally:
                before.remove()
                del self.unet.forward

    own = with_scheduler(DDIMScheduler, pipe, ByPlace)
    with persres.on(own, {"rex": rex}):
        found = draw(own, sd, PROMPT)
    assert_near(found, ours(sd, f"<persres:rex>{PROMPT}", {"rex": rex}), PICTURE)


def test_nothing_acts_in_a_copy_of_the_pipeline(pipe, sd, rex):
    base = draw(pipe, sd, "a photo of a olis ball on grass")
    with persres.on(pipe, {"rex": learned_word(rex)}):
        other = copy.copy(pipe)
        assert torch.equal(draw(other, sd, "a photo of a olis ball on grass"), base)


def test_a_call_within_a_call_is_refused(pipe, sd, rex):
    before = snapshot(pipe)

    def within(pipe, step, t, tensors):
        draw(pipe, sd, PROMPT)

    with persres.on(pipe, {"rex": rex}):
        with pytest.raises(PersresError, match="called within a call of its own"):
            draw(pipe, sd, PROMPT, callback_on_step_end=within)
        assert_near(draw(pipe, sd, PROMPT), ours(sd, f"<persres:rex>{PROMPT}", {"rex": rex}), PICTURE)
    assert snapshot(pipe) == before


def test_meanwhile_the_pipeline_is_of_its_class_to_all_who_ask(pipe, rex, tmp_path):
    signature = inspect.signature(pipe.__call__)
    with persres.on(pipe, {"rex": rex}):
        assert isinstance(pipe, StableDiffusionPipeline) and inspect.signature(pipe.__call__) == signature
        assert type(StableDiffusionPipeline.from_pipe(pipe)) is StableDiffusionPipeline
        pipe.save_config(tmp_path)
    assert StableDiffusionPipeline.load_config(tmp_path)["_class_name"] == "StableDiffusionPipeline"


def test_a_unet_that_took_the_others_place_is_told(pipe, sd, rex):
    own = with_scheduler(DDIMScheduler, pipe)
    with persres.on(own, {"rex": rex}), pytest.warns(UserWarning, match="did not call the UNet that it had"):
        own.unet = copy.deepcopy(of_toybox())
        draw(own, sd, PROMPT)


def test_residuals_that_did_not_act_are_told(pipe, sd, rex):
    kind = type(pipe)
    with persres.on(pipe, {"rex": rex}):
        pipe.encode_prompt = functools.partial(kind.encode_prompt, pipe)
        try:
            with pytest.warns(UserWarning, match="The residuals did not act"):
                draw(pipe, sd, PROMPT)
        finally:
            del pipe.encode_prompt


# -- texts


def test_a_learned_word_is_the_models_own_at_strength_0(pipe, sd, rex):
    base = draw(pipe, sd, "a photo of a olis ball on grass")
    with persres.on(pipe, {"rex": learned_word(rex)}):
        assert torch.equal(draw(pipe, sd, PROMPT + "<persres:rex:0>"), base)
        with pytest.raises(PersresError, match="left out of some prompts of this call alone"):
            draw(pipe, sd, [PROMPT, PROMPT + "<persres:rex:0>"], seeds=(3, 4))


@pytest.mark.parametrize("identifier", ["olis", "red olis"])
@pytest.mark.parametrize("learned", [False, True])
def test_a_learned_word_that_is_in_anothers_identifier_is_refused_where_both_are_read(
    pipe, sd, rex, learned, identifier
):
    other = residual(ldm_view(pipe.unet), 2, identifier, "box")
    if learned and identifier == "olis":
        other = learned_word(other)
    shelf = {"rex": learned_word(rex), "mia": other}
    with persres.on(pipe, shelf, tell=lambda sentence: None):
        for prompt in ("a V1* ball", "a V1* ball and a V2* box <persres:mia:0>"):
            with pytest.raises(PersresError, match='"olis", which is in that of mia, too'):
                draw(pipe, sd, prompt)
        for prompt in ("a V1* ball <persres:mia:0>", "a V2* box <persres:rex:0>"):
            found = draw(pipe, sd, prompt)
            tags = "".join(f"<persres:{name}>" for name in shelf)  # a later one of a name counts
            assert_near(found, ours(sd, tags + prompt, shelf), PICTURE)


def test_words_of_several_vectors_before_v_do_not_shift_it(pipe, rex):
    """A textual inversion of two vectors, which the pipeline writes as two words."""
    other = StableDiffusionPipeline(
        **{**pipe.components, "tokenizer": copy.deepcopy(pipe.tokenizer)}, requires_safety_checker=False
    )
    other.tokenizer.add_tokens(["<toy>", "<toy>_1"])
    (found,) = Texts(other, {"rex": rex}, True).read("<toy> and a V* ball").tokens
    ids = other.tokenizer("<toy> <toy>_1 and a olis ball").input_ids
    assert found.indices == (ids.index(pipe.tokenizer("olis").input_ids[1]), len(ids) - 2)


def test_a_negative_prompt_counts_where_there_is_guidance(pipe, sd, rex):
    with persres.on(pipe, {"rex": rex}):
        with pytest.raises(PersresError, match="V3"):
            draw(pipe, sd, PROMPT, negative_prompt="V3*")
        draw(pipe, sd, PROMPT, negative_prompt="V3*", guidance_scale=1.0)
        for name in ("rex", "tom"):
            words = (
                f'"<persres:{name}:0.5>" in the negative prompt is no tag: write <persres:{name}:0.5> into the prompt'
            )
            with pytest.raises(PersresError, match=words):
                draw(pipe, sd, PROMPT, negative_prompt=f"blurry <persres:{name}:0.5>")


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a V* (red:1.3) ball", "knows no emphasis"),
        ("a V* ball " + "and a red box " * 30, "longer than 75 tokens"),
        ("a V* ball AND a box", "AND was read as a word"),
        ("a V* ball <perres:rex>", "is no tag"),
        ("a V* (red:1.2.3) ball", "knows no emphasis"),  # no number, which is no fault where it is words
    ],
)
def test_what_a_pipeline_does_not_understand_is_told(pipe, sd, rex, prompt, words):
    with pytest.warns(UserWarning, match=words), persres.on(pipe, {"rex": rex}):
        draw(pipe, sd, prompt)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(red:1.3)", "Brackets in the negative prompt are words"),
        ("a BREAK b", "BREAK in the negative prompt was read as a word"),
        ("<perres:rex>", '"<perres:rex>" in the negative prompt is no tag'),
        ("v* ball", r'"v\*" in the negative prompt was read as words'),
    ],
)
def test_what_a_pipeline_does_not_understand_of_the_negative_prompt_is_told_where_it_is_read(
    pipe, sd, rex, text, words
):
    told = []
    with persres.on(pipe, {"rex": rex}, tell=told.append):
        draw(pipe, sd, PROMPT, negative_prompt=text, guidance_scale=1.0)
        assert told == []
        draw(pipe, sd, PROMPT, negative_prompt=text)
    (sentence,) = told
    assert re.match(words, sentence)


def test_a_call_says_everything_once(pipe, sd, rex):
    told = []
    with persres.on(pipe, {"rex": rex}, tell=told.append):
        draw(pipe, sd, ["a (red) ball", "a (red) ball at night"], seeds=(3, 4))
    assert len(told) == len(set(told)) == 2


def test_names_are_compared_in_one_form(pipe, sd, rex, tmp_path):
    rex.save(tmp_path / (unicodedata.normalize("NFD", "rexé") + ".safetensors"))
    with persres.on(pipe, [next(tmp_path.iterdir())]):
        found = [draw(pipe, sd, PROMPT + unicodedata.normalize(form, " <persres:rexé:0.5>")) for form in ("NFC", "NFD")]
    assert torch.equal(*found)


# -- steps


def behind(pipe, call):
    """The part of the sampling that lies behind, at each call of the UNet."""
    seen = []
    (acting,) = {hook.__self__ for hook in pipe.unet._forward_pre_hooks.values()}
    begin = acting.branches.begin
    acting.branches.begin = lambda step, done: (seen.append(done), begin(step, done))
    call()
    return seen


def with_scheduler(kind, pipe, of=StableDiffusionPipeline):
    parts = {**pipe.components, "scheduler": kind.from_config(pipe.scheduler.config)}
    made = of(**parts, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("kind", [DDIMScheduler, HeunDiscreteScheduler, EulerDiscreteScheduler, PNDMScheduler])
def test_the_part_that_lies_behind_grows_to_1_under_every_scheduler(pipe, sd, rex, kind):
    own = with_scheduler(kind, pipe)
    with persres.on(own, {"rex": rex}, lag=True):
        seen = behind(own, lambda: draw(own, sd, PROMPT))
    count = len(own.scheduler.timesteps)
    assert count >= STEPS and seen == [index / count for index in range(count)]


class Old(StableDiffusionImg2ImgPipeline):
    """One that does not say how many steps it takes."""

    num_timesteps = None


@pytest.mark.parametrize(
    ("of", "kind"),
    [
        (StableDiffusionImg2ImgPipeline, DDIMScheduler),
        (StableDiffusionImg2ImgPipeline, HeunDiscreteScheduler),
        (StableDiffusionImg2ImgPipeline, PNDMScheduler),
        (Old, DDIMScheduler),
        (Old, EulerDiscreteScheduler),
    ],
)
def test_a_picture_made_of_a_picture_begins_with_nothing_behind(pipe, rex, of, kind):
    own = with_scheduler(kind, pipe, of)
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with persres.on(own, {"rex": rex}, lag=True):
        seen = behind(own, lambda: own(PROMPT, picture, 0.5, num_inference_steps=8, output_type="latent"))
    assert len(seen) >= 4 and seen == [index / len(seen) for index in range(len(seen))]


class Twice(StableDiffusionPipeline):
    """Its UNet is called twice a step, as where a pipeline draws parts of a picture one by one."""

    def __call__(self, *args, **kwargs):
        again = []

        def after(module, args, kwargs, output):
            if not again:
                again.append(True)
                module(*args, **kwargs)
                again.clear()

        handle = self.unet.register_forward_hook(after, with_kwargs=True)
        try:
            return super().__call__(*args, **kwargs)
        finally:
            handle.remove()


@pytest.mark.parametrize("kind", [DDIMScheduler, HeunDiscreteScheduler])
def test_several_calls_of_the_unet_in_a_step_are_one_step(pipe, sd, rex, kind):
    own = with_scheduler(kind, pipe, Twice)
    with persres.on(own, {"rex": rex}, lag=True):
        seen = behind(own, lambda: draw(own, sd, PROMPT))
    if kind is DDIMScheduler:
        assert seen == [index // 2 / STEPS for index in range(2 * STEPS)]
    else:  # which has each time but the first twice, so one time is two of four calls
        count = len(own.scheduler.timesteps)
        assert seen == sorted(seen) and set(seen) == {index / count for index in range(count)}


class Elsewhere(StableDiffusionPipeline):
    """Its UNet is called at times of its own."""

    def __call__(self, *args, **kwargs):
        handle = self.unet.register_forward_pre_hook(lambda module, args: (args[0], args[1] + 100), prepend=True)
        try:
            return super().__call__(*args, **kwargs)
        finally:
            handle.remove()


def test_times_that_the_scheduler_does_not_have_are_refused(pipe, sd, rex):
    own = with_scheduler(DDIMScheduler, pipe, Elsewhere)
    with persres.on(own, {"rex": rex}), pytest.raises(PersresError, match="at the time .*, which its scheduler does"):
        draw(own, sd, PROMPT)


@pytest.mark.parametrize("part", ["start=0.5", "end=0.5"])
def test_a_tag_acts_in_its_part_of_the_sampling(pipe, sd, rex, part):
    prompt = f"{PROMPT} <persres:rex:1:{part}>"
    with persres.on(pipe, {"rex": rex}):
        found = draw(pipe, sd, prompt)
    assert_near(found, ours(sd, prompt, {"rex": rex}), PICTURE)


# -- what cannot be


class Other:
    """Of another family."""


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda pipe, rex: persres.on(None, [rex]), "NoneType has no unet"),
        (lambda pipe, rex: persres.on(Other(), [rex]), "Other has no unet"),
        (lambda pipe, rex: persres.on(pipe, None), "not None"),
        (lambda pipe, rex: persres.on(pipe, 5), "not 5"),
        (lambda pipe, rex: persres.on(pipe, [None]), "not None"),
        (lambda pipe, rex: persres.on(pipe, [b"x"]), "not b'x'"),
        (lambda pipe, rex: persres.on(pipe, {"a": None}), "not None"),
        (lambda pipe, rex: persres.on(pipe, {5: rex}), "by a name that is a text"),
        (lambda pipe, rex: persres.on(pipe, {"rex": rex}, mask=["median"]), "There is no mask"),
        (lambda pipe, rex: persres.on(pipe, {"rex": rex}, unconditional=["base"]), "Unconditional rows"),
        (lambda pipe, rex: persres.on(pipe, ["a/rex.safetensors", "b/rex.safetensors"]), "rex.safetensors"),
        (lambda pipe, rex: persres.on(pipe, [named(rex), named(rex)]), 'Two residuals are called "rex"'),
        (lambda pipe, rex: persres.on(pipe, {"rex": broken_numbers(rex)}), "not finite"),
        (lambda pipe, rex: persres.on(pipe, {"rex": of_sdxl(rex)}), None),
    ],
)
def test_nonsense_is_refused_in_words_before_anything_is_changed(pipe, rex, call, words):
    before = snapshot(pipe)
    if words is None:  # the Toybox's context is as wide as no family's, so it may be any
        with call(pipe, rex):
            pass
    else:
        with pytest.raises(PersresError, match=words), call(pipe, rex):
            pass
    assert snapshot(pipe) == before


def named(rex):
    return Residual(rex.factors, Metadata(concept="rex", identifier="olis", macro_class="ball"))


def broken_numbers(rex):
    factors = {path: Factors(f.down, f.up * float("nan")) for path, f in rex.factors.items()}
    return Residual(factors, rex.metadata)


def of_sdxl(rex):
    return Residual(rex.factors, Metadata(identifier="olis", macro_class="ball", base_family="SDXL"))


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
@pytest.mark.parametrize("given", [5, [None], ["a", 5], [["a"]], {}, "a \ud800 b"])
def test_a_text_that_is_none_is_refused_in_words(pipe, rex, name, given):
    asked = {"prompt": "a V* ball", "device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
    with persres.on(pipe, {"rex": rex}), pytest.raises(PersresError, match="text or a list of texts|control character"):
        pipe.encode_prompt(**{**asked, name: given})


def test_texts_by_their_places_and_of_other_counts_are_checked_too(pipe, sdxl, rex):
    with persres.on(pipe, {"rex": rex}):
        with pytest.raises(PersresError, match="text or a list of texts, not 5"):
            pipe.encode_prompt(5)
        with pytest.raises(PersresError, match="negative_prompt has 2 texts for 1 prompts: give one each"):
            pipe.encode_prompt("a V* ball", "cpu", 1, True, ["blurry", "dark"])
        of_lists = pipe.encode_prompt(["a V* ball"] * 2, "cpu", 1, True, ["blurry"] * 2)
        of_one = pipe.encode_prompt(["a V* ball"] * 2, "cpu", 1, True, "blurry")  # which diffusers refuses, or not
        assert all(map(torch.equal, of_one, of_lists))
    with persres.on(sdxl, {"rex": rex}):
        with pytest.raises(PersresError, match="prompt_2 has 1 texts for 2 prompts: give one each"):
            sdxl.encode_prompt(["a V* ball"] * 2, "a V* ball", device="cpu")


def test_a_pipeline_that_lacks_an_encoder_is_refused(sdxl, rex):
    """As SDXL's refiner does."""
    for number in ("", "_2"):
        parts = {**sdxl.components, f"tokenizer{number}": None, f"text_encoder{number}": None}
        made = StableDiffusionXLPipeline(**parts, add_watermarker=False)
        with pytest.raises(PersresError, match=f"has no tokenizer{number}"), persres.on(made, {"rex": rex}):
            pass
