"""Residuals in diffusers' own pipelines, against this project's sampler on ldm's modules with the same weights."""

import warnings

import longhand
import pytest
import torch
from pipelines import PROMPT, draw, learned_word, of_toybox, ours, read, residual, snapshot
from rounding import PICTURE, PRODUCT, assert_near

from lib_persres.branch import Branches
from lib_persres.concepts import Use
from lib_persres.errors import PersresError
from lib_persres.plan import Plans, guidance_rows
from lib_persres.residual import Metadata, Residual
from lib_persres.standalone import pipeline as persres
from lib_persres.standalone.ldm_view import ldm_view
from lib_persres.unet import find_targets

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


@pytest.mark.parametrize("family", ["SD1", "SD2", "SDXL"])
def test_equation_3_holds_the_long_way_on_diffusers_modules(family):
    """In float64, so that nothing but the equation is compared."""
    unet = of_toybox(family).double()
    view = ldm_view(unet)
    learned = residual(view, 3)
    uses = [[Use(strength, True, (tokens,))] for strength, tokens in ((1.0, (2, 3)), (0.6, (5,)))]
    generator = torch.Generator().manual_seed(0)
    x, context = (
        torch.randn(shape, generator=generator).double()
        for shape in ((2, 4, 16, 16), (2, 77, unet.config.cross_attention_dim))
    )
    told = {}
    if family == "SDXL":
        pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        told = {"text_embeds": torch.ones(2, pooled).double(), "time_ids": torch.ones(2, 6).double()}
    with Branches(view, [learned]) as branches, longhand.watch(view) as seen, torch.no_grad():
        branches.plan = Plans(uses).plan(guidance_rows(2, guided=False), 77)
        unet(x, 500, encoder_hidden_states=context, added_cond_kwargs=told)
    assert len(seen) == len(learned.factors) == 10
    for block, record in seen.items():
        for row, (use,) in enumerate(uses):
            mask = longhand.mask_of(record, row, use.indices[0])
            change = longhand.delta(learned, block, use.strength)
            expected = longhand.equation_3(view.get_submodule(block).proj_out, record.x[row], [change], [mask])
            assert_near(longhand.row_of(record.out, row), expected, PRODUCT)


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


# -- SDXL


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
