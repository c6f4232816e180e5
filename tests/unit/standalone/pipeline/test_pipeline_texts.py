"""What the texts of a pipeline's call say, and what a user is told of them."""

import copy
import re
import unicodedata

import pytest
import torch
from diffusers import (
    StableDiffusionPipeline,
)
from pipelines import (
    PROMPT,
    draw,
    learned_word,
    ours,
    residual,
)
from rounding import PICTURE, assert_near

from lib_persres.errors import PersresError
from lib_persres.standalone import pipeline as persres
from lib_persres.standalone.ldm_view import ldm_view
from lib_persres.standalone.pipeline_texts import Texts

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
