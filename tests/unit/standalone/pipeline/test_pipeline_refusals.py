"""What a pipeline cannot draw is a sentence before anything is changed."""

import pytest
import torch
from diffusers import (
    StableDiffusionXLPipeline,
)
from pipelines import PROMPT, draw, named, ours, snapshot
from rounding import PICTURE, assert_near

from lib_persres.errors import PersresError
from lib_persres.residual import Factors, Metadata, Residual
from lib_persres.standalone import pipeline as persres

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
