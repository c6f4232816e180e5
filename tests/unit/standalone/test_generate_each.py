"""Several prompts in one batch are what each is alone."""

import pytest

pytest.importorskip("ldm")

from generate_bench import concept, speaking
from rounding import PICTURE

from lib_persres.errors import PersresError
from lib_persres.standalone.generate import generate
from lib_persres.standalone.generate_each import generate_each

PROMPTS = ["<persres:rex>a photo of a V* dog", "<persres:rex>V* dog on a beach at night", "<persres:rex>a beach"]
SIZE = {"width": 16, "height": 16, "steps": 3}


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return speaking(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def rex(sd):
    return concept(sd, "rex")


@pytest.mark.parametrize("lag", [False, True])
def test_a_batch_of_prompts_equals_its_singles(sd, rex, lag):
    together = generate_each(sd, PROMPTS, lambda _: rex, seeds=[1, 2, 3], lag=lag, **SIZE)
    for prompt, seed, made in zip(PROMPTS, (1, 2, 3), together):
        alone = generate(sd, prompt, lambda _: rex, seeds=[seed], lag=lag, **SIZE)
        assert made.images.shape == alone.images.shape and (made.images - alone.images).abs().max() < PICTURE
        assert (made.text, made.seeds, made.problems) == (alone.text, alone.seeds, alone.problems)
        assert (made.masks is None) == (alone.masks is None)
        if made.masks is not None:
            for what in ("masks", "maps"):  # rounding may turn a pixel on the mask's edge
                assert made.masks.mean(what).shape == alone.masks.mean(what).shape
                assert (made.masks.mean(what) - alone.masks.mean(what)).abs().mean() < 0.01


def test_without_tags_the_base_model_draws_each_prompt(sd):
    together = generate_each(sd, ["a dog", "a cat on a beach"], seeds=[4, 4], **SIZE)
    for prompt, made in zip(("a dog", "a cat on a beach"), together):
        assert (made.images - generate(sd, prompt, seeds=[4], **SIZE).images).abs().max() < PICTURE
    assert (together[0].images - together[1].images).abs().max() > 4 * PICTURE


def test_prompts_of_other_tags_or_without_a_seed_are_refused(sd, rex):
    with pytest.raises(PersresError, match="tags of the same concepts"):
        generate_each(sd, [PROMPTS[0], "a dog"], lambda _: rex, seeds=[1, 2], **SIZE)
    with pytest.raises(PersresError, match="2 prompts need a seed each, not 1"):
        generate_each(sd, PROMPTS[:2], lambda _: rex, seeds=[1], **SIZE)
