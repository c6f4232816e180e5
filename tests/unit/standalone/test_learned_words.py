"""Learned embeddings in the standalone generator: V* is the residual's own vector, and nothing else changes."""

from contextlib import contextmanager

import pytest
import torch

pytest.importorskip("ldm")

import longhand
from rounding import PICTURE
from standalone_models import TEXT, tiny_text, tiny_vae

from lib_persres.errors import PersresError
from lib_persres.prompt import Tag
from lib_persres.residual import Factors, Metadata, Residual
from lib_persres.standalone.checkpoint import StableDiffusion, alphas_cumprod
from lib_persres.standalone.generate import generate
from lib_persres.standalone.words import Words
from lib_persres.training import preview

WIDTH = TEXT["hidden_size"]
PROMPT, SEEN = "a photo of a V* dog on a beach", "a photo of a olis dog on a beach"


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return StableDiffusion(
        unet=longhand.make_unet(),
        vae=tiny_vae(),
        texts={"": longhand.random_(tiny_text())},
        scale_factor=0.5,
        alphas_cumprod=alphas_cumprod(0.00085, 0.012, 1000),
        device=torch.device("cpu"),
        dtype=torch.float32,
        path=tmp_path_factory.mktemp("model") / "tiny.safetensors",
    )


def learned(seed, shape=(1, WIDTH), identifier="olis", macro_class="dog", factors=None):
    """A residual with an embedding; without factors: Textual Inversion."""
    vectors = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    targets = "embedding+proj_out" if factors else "embedding"
    metadata = Metadata(concept=f"c{seed}", identifier=identifier, macro_class=macro_class, targets=targets)
    return Residual(factors or {}, metadata, {identifier: vectors})


@contextmanager
def row(sd, word, vector):
    """The model's own row of a word's one token replaced, by hand."""
    (token,) = sd.encode_text(word)
    weight = sd.token_embedding.weight
    before = weight.data.clone()
    try:
        weight.data[token] = vector
        yield
    finally:
        weight.data.copy_(before)


def words(sd, *residuals, used=None):
    tags = [Tag(f"c{i}", text=f"<persres:c{i}>") for i in range(len(residuals))]
    return Words(sd, residuals, used or [True] * len(residuals), tags)


def context(sd, prompt, *residuals, used=None):
    asked = words(sd, *residuals, used=used)
    return asked.encode(asked.write(prompt), (64, 64))[0].context


def draw(sd, prompt, shelf, **options):
    return generate(sd, prompt, shelf.__getitem__, **{"width": 16, "height": 16, "steps": 2, **options})


# -- the context


@pytest.mark.parametrize("shape", [(1, WIDTH), (WIDTH,)])
@pytest.mark.parametrize("prompt", [PROMPT, "V*", "olis's V* dog, OLIS", "a dog without it"])
def test_the_context_is_that_of_an_encoder_whose_own_row_is_the_vector(sd, shape, prompt):
    residual = learned(1, shape)
    asked = words(sd, residual)
    text = asked.write(prompt).text
    before = sd.encode_prompts([text])[0].context
    found = context(sd, prompt, residual)
    with row(sd, "olis", residual.embeddings["olis"]):
        expected = sd.encode_prompts([text])[0].context
    assert torch.equal(found, expected)
    assert torch.equal(found, before) == ("V*" not in prompt)


def test_the_encoder_is_as_before(sd):
    weight = sd.token_embedding.weight.clone()
    before = sd.encode_prompts([SEEN, "a cat"])[0].context
    context(sd, PROMPT, learned(1))
    assert torch.equal(sd.encode_prompts([SEEN, "a cat"])[0].context, before)
    assert torch.equal(sd.token_embedding.weight, weight)
    with pytest.raises(PersresError, match="V3"):
        context(sd, "a V3* dog", learned(1))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in sd.text.modules())


def test_several_vectors_follow_one_another_and_all_are_the_concepts_tokens(sd):
    residual = learned(2, (2, WIDTH))
    found = context(sd, PROMPT, residual)
    one, two = residual.embeddings["olis"]
    with row(sd, "olis", one), row(sd, "phol", two):
        expected = sd.encode_prompts(["a photo of a olis phol dog on a beach"])[0].context
    assert torch.equal(found, expected)
    (use,) = draw(sd, "<persres:rex>" + PROMPT, {"rex": residual}).uses
    assert use.indices == ((5, 6, 7),)  # a photo of a, then two vectors and the class


def test_two_concepts_with_one_identifier_keep_their_vectors(sd):
    rex, tom = learned(1), learned(2)
    found = context(sd, "a V1* dog and a V2* dog", rex, tom)
    with row(sd, "olis", rex.embeddings["olis"]), row(sd, "phol", tom.embeddings["olis"]):
        expected = sd.encode_prompts(["a olis dog and a phol dog"])[0].context
    assert torch.equal(found, expected)
    made = draw(sd, "<persres:rex><persres:tom>a V1* dog and a V2* dog", {"rex": rex, "tom": tom})
    assert [use.indices for use in made.uses] == [((2, 3),), ((6, 7),)]


def test_a_learned_and_a_plain_concept_with_one_identifier(sd):
    rex = learned(1)
    plain = Residual({}, Metadata(concept="tom", identifier="olis", macro_class="cat"))
    found = context(sd, "a V1* dog and a V2* cat", rex, plain)
    with row(sd, "phol", rex.embeddings["olis"]):
        assert torch.equal(found, sd.encode_prompts(["a phol dog and a olis cat"])[0].context)


def plain(sd, seed):
    return Residual(longhand.random_residual(sd.unet, 2, seed).factors, Metadata(identifier="olis", macro_class="dog"))


def test_twins_are_told_apart_by_their_places_and_read_as_they_are_written(sd):
    twins = plain(sd, 1), plain(sd, 2), plain(sd, 3)
    found = context(sd, "a V1* dog, a V2* dog and a V3* dog", *twins)
    assert torch.equal(found, sd.encode_prompts(["a olis dog, a olis dog and a olis dog"])[0].context)
    shelf = dict(zip(("rex", "tom", "ada"), twins))
    made = draw(sd, "<persres:rex><persres:tom><persres:ada>a V3* dog, a V1* dog and a V2* dog", shelf)
    assert [use.indices for use in made.uses] == [((6, 7),), ((10, 11),), ((2, 3),)]
    assert not made.problems


def test_a_twin_that_the_prompt_does_not_name_is_told(sd):
    made = draw(sd, "<persres:rex><persres:tom>a V* dog and an olis dog", {"rex": plain(sd, 1), "tom": plain(sd, 2)})
    assert [use.indices for use in made.uses] == [((2, 3, 6, 7),), ((),)]
    assert any("V2* is not in the prompt" in sentence for sentence in made.problems)


def test_vectors_of_another_width_are_refused(sd):
    with pytest.raises(PersresError) as caught:
        draw(sd, "<persres:rex>" + PROMPT, {"rex": learned(1, (1, 768))})
    assert "embedding of rex has 768" in str(caught.value) and "encoder has 32" in str(caught.value)
    draw(sd, "<persres:rex:0>" + PROMPT, {"rex": learned(1, (1, 768))})  # it is not asked for


# -- pictures


def test_a_picture_is_that_of_the_replaced_row_in_both_prompts(sd):
    residual = learned(1)
    options = {"negative": "a bad V*"}
    made = draw(sd, "<persres:rex>" + PROMPT, {"rex": residual}, **options)
    with row(sd, "olis", residual.embeddings["olis"]):
        expected = draw(sd, SEEN, {}, negative="a bad olis")
        positive = draw(sd, SEEN, {}, negative="a bad dog")
    assert made.text == SEEN and torch.equal(made.images, expected.images)
    assert not torch.equal(made.images, positive.images)
    assert not torch.equal(made.images, draw(sd, SEEN, {}, negative="a bad olis").images)


def test_the_tags_strength_is_not_the_vectors_and_at_zero_it_is_left_out(sd):
    shelf = {"rex": learned(1)}
    full = draw(sd, "<persres:rex>" + PROMPT, shelf).images
    assert torch.equal(draw(sd, "<persres:rex:0.3>" + PROMPT, shelf).images, full)
    assert torch.equal(draw(sd, "<persres:rex:0>" + PROMPT, shelf).images, draw(sd, SEEN, {}).images)
    # gone with its tag
    assert torch.equal(draw(sd, SEEN, shelf).images, draw(sd, SEEN, {}).images)


def test_lag_confines_the_factors_and_finds_the_learned_word(sd):
    random = longhand.random_residual(sd.unet, 2, 0)
    rex = learned(1, factors=random.factors)
    lag, plain = (draw(sd, "<persres:rex>" + PROMPT, {"rex": rex}, lag=on, mask="median") for on in (True, False))
    assert lag.uses[0].indices == ((5, 6),) and lag.masks is not None and not lag.problems
    assert (lag.images - plain.images).abs().max() > 4 * PICTURE
    zeros = {path: Factors(f.down, f.up * 0) for path, f in random.factors.items()}
    without = draw(sd, "<persres:rex>" + PROMPT, {"rex": learned(1, factors=zeros)}, lag=True, mask="median")
    assert (lag.images - without.images).abs().max() > 4 * PICTURE
    # LAG, and nothing asks for it: the base model
    missing = draw(sd, "<persres:rex>a dog", {"rex": rex}, lag=True)
    assert torch.equal(missing.images, draw(sd, "a dog", {}).images)


def test_an_embedding_alone_under_lag_is_told(sd):
    made = draw(sd, "<persres:rex>" + PROMPT, {"rex": learned(1)}, lag=True)
    (problem,) = made.problems
    assert "LAG cannot confine <persres:rex>, which changes embedding" in problem
    assert torch.equal(made.images, draw(sd, "<persres:rex>" + PROMPT, {"rex": learned(1)}).images)


# -- a training's previews


def test_a_preview_draws_the_learned_word(sd):
    residual = learned(1)
    (drawn,) = preview.draw(sd, residual, PROMPT, 16, 0, lag=[False])
    with row(sd, "olis", residual.embeddings["olis"]):
        bare = Residual({}, Metadata(concept="rex", identifier="olis", macro_class="dog"))
        (expected,) = preview.draw(sd, bare, PROMPT, 16, 0, lag=[False])
    (without,) = preview.draw(sd, bare, PROMPT, 16, 0, lag=[False])
    assert drawn.tobytes() == expected.tobytes() != without.tobytes()
    with pytest.raises(PersresError, match="needs one vector for one token, not 2 for 1"):
        preview.draw(sd, learned(1, (2, WIDTH)), PROMPT, 16, 0)


def test_a_preview_under_lag_is_the_base_where_nothing_asks_for_the_concept(sd):
    rex = longhand.random_residual(sd.unet, 2, 0)
    rex.metadata.identifier, rex.metadata.macro_class = "olis", "dog"
    plain, lag = preview.draw(sd, rex, "a house", 16, 0)
    (base,) = preview.draw(sd, Residual({}, rex.metadata), "a house", 16, 0, lag=[False])
    assert lag.tobytes() == base.tobytes() != plain.tobytes()


def test_a_preview_whose_numbers_are_not_finite_says_so_and_is_no_black_picture(sd):
    rex = longhand.random_residual(sd.unet, 2, 0)
    rex.metadata.identifier, rex.metadata.macro_class = "olis", "dog"
    strong = {target: Factors(f.down, f.up * 1e30) for target, f in rex.factors.items()}
    with pytest.raises(PersresError, match="not finite"):
        preview.draw(sd, Residual(strong, rex.metadata), PROMPT, 16, 0, lag=[False])
