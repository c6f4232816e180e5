"""What a user is told of a prompt that is not as it should be: what is so, by the words that the user wrote."""

import pytest
import standalone_models as models
import torch
from companions import OTHER, save_checkpoint
from host import copy_of, make_residual
from pictures import HIRES, LAG, REX, near, same, told
from safetensors.torch import save_file

WIDE = "zwide.safetensors"


# -- V* and its tags


def test_v_star_without_a_tag_is_told_and_nothing_changes(host, reference):
    result = host.generate("a photo of a V* dog")
    assert same(result.images[0], reference["V* is a word"][0])
    (sentence,) = told(result)
    assert sentence == "V* stands for a concept, but the prompt has no <persres:…> tag: it was read as words."
    (sentence,) = told(host.generate("a dog", negative_prompt="a V2* dog"))
    assert sentence.startswith("V2* in the negative prompt stands for a concept, but the prompt has no")
    assert len(told(host.generate("a photo of a V* dog", **HIRES))) == 1
    (sentence,) = told(host.generate("a dog", hr_prompt="a V* dog", **HIRES))
    assert sentence.startswith("V* stands for a concept, but the hires prompt has no")
    (sentence,) = told(host.generate(REX, hr_prompt="a V* dog", **HIRES))
    assert "the hires prompt has no" in sentence


def test_one_wrong_number_is_told_alone_and_the_others_are_written(host):
    result = host.generate("a V1* dog, a V3* bird and a V2* cat <persres:rex><persres:mia:0.7>")
    assert same(result.images[0], host.image("a V1* dog, a  bird and a V2* cat <persres:rex><persres:mia:0.7>"))
    (sentence,) = told(result)
    assert sentence == (
        "V3* stands for the third concept, but the prompt names only 2 concepts: <persres:rex>, <persres:mia:0.7>."
    )


@pytest.mark.parametrize("tag", ["<persres:nobody>", "<persres:rex:much>", "<persres:rex:1:strenght=2>", "<persres:=>"])
def test_a_tag_that_cannot_be_used_leaves_the_class_word_and_keeps_its_place(host, tag):
    result = host.generate(f"a V* dog {tag}")
    assert same(result.images[0], host.image("a  dog"))
    assert [sentence for sentence in told(result) if tag in sentence] == told(result) != []
    both = host.image(f"a V1* dog and a V2* cat {tag}<persres:mia>")
    assert same(both, host.image("a  dog and a V* cat <persres:mia>"))


def test_of_two_tags_for_one_name_the_one_that_can_be_read_counts(host):
    for tags in ("<persres:rex><persres:rex:much>", "<persres:rex:much><persres:rex>"):
        result = host.generate(f"a photo of a V* dog {tags}", LAG)
        assert same(result.images[0], host.image(REX, LAG)) and len(told(result)) == 1


@pytest.mark.parametrize(
    "text, said",
    {
        "<persres:rex a V* dog": 'no tag, since its ">" is missing, so V* was read as a word: write <persres:rex>.',
        "<Persres:rex> a V* dog": "is no tag, so V* was read as a word: did you mean <persres:rex>?",
        "<persre:rex:0.5> a dog": '"<persre:rex:0.5>" in the prompt is no tag: did you mean <persres:rex:0.5>?',
        "<persres:> a dog": "is no tag: write <persres:name> or",
        "<persres>": "is no tag: write <persres:name> or",
    }.items(),
)
def test_what_looks_like_a_tag_is_told_once(host, text, said):
    (sentence,) = told(host.generate(text))
    assert said in sentence
    (sentence,) = told(host.generate(REX, negative_prompt="bad <persres:rex>"))
    assert sentence == '"<persres:rex>" in the negative prompt is no tag: write <persres:rex> into the prompt.'


def test_what_is_likely_meant_otherwise_is_told_where_a_concept_is(host):
    first, second = told(host.generate("a v* dog <persres:rex>"))
    assert first.startswith('"v*" in the prompt was read as words: write V*, with a capital') and "its V*" in second
    (sentence,) = told(host.generate(f"{REX} AND (a cat AND a dog)"))
    assert sentence.startswith('The bracket of "(a cat" in the prompt is never closed')
    (sentence,) = told(host.generate(REX, negative_prompt="(bad:1000000)"))
    assert sentence.startswith('"bad" in the negative prompt counts 1e+06 times')
    assert told(host.generate("a (dog", negative_prompt="(bad:1000000)")) == []  # nothing of ours


def test_sentences_say_v1_where_the_user_wrote_it(host):
    (sentence,) = told(host.generate("a V1* house <persres:rex:0.9>", LAG))
    assert sentence.startswith('V1* of <persres:rex:0.9> is not followed by "dog"') and "olis" not in sentence
    (sentence,) = told(host.generate("a house <persres:rex>", LAG))
    assert sentence.startswith("V* of <persres:rex> is not in the prompt") and "olis" not in sentence
    (sentence,) = told(host.generate("a V1* dog <persres:rex><persres:mia>"))
    assert sentence == "<persres:mia> acts, but its V2* is not in the prompt: nothing asks for the concept."


def test_two_residuals_with_the_same_words_are_told_apart_and_a_twin_that_is_not_named_is_told(host):
    folder = host.data / "models" / "persres"
    copy_of(folder / "rex.safetensors", folder / "twin.safetensors")
    tags = " <persres:rex><persres:twin:0.5>"
    for args in (None, LAG):
        assert told(host.generate("a V1* dog and a V2* dog" + tags, args)) == []
    sentences = told(host.generate("a olis dog and a olis dog" + tags, LAG))  # typed, they are the first one's
    assert len(sentences) == 1 and "V2* of <persres:twin:0.5> is not in the prompt" in sentences[0]


# -- a user's embedding


def read(host):
    """The users' embeddings anew."""
    host.post("/sdapi/v1/refresh-embeddings")
    host.post("/probe/embeddings/read")


@pytest.fixture
def embedding(host):
    """embedding(name): the user has an embedding of this name."""
    written = []

    def write(name):
        path = host.data / "embeddings" / f"{name}.safetensors"
        vectors = torch.randn(2, models.TEXT["hidden_size"], generator=torch.Generator().manual_seed(9))
        save_file({"emb_params": vectors}, path)
        written.append(path)
        read(host)

    yield write
    for path in written:
        path.unlink()
    read(host)


@pytest.mark.parametrize("name", ["olis", "OLIS", "a olis", "olis dog", "olis dog in"])
def test_a_users_embedding_called_like_the_identifier_is_not_read_for_v_star(host, embedding, name):
    prompts = ["a V* dog in snow <persres:rex>", "a (V*:1.2) dog in snow <persres:rex>"]
    cases = [(prompt, args) for prompt in prompts for args in ([False], LAG, [{"strength": 0}])]
    negative = {"negative_prompt": "a V* dog at night"}
    before = [host.generate(prompt, args, **negative).images[0] for prompt, args in cases]
    typed = host.image("a olis dog in snow")
    embedding(name)
    assert not near(host.image(f"a {name} in snow"), host.image("a dog in snow"))
    assert not near(host.image("a olis dog in snow"), typed)
    for (prompt, args), image in zip(cases, before, strict=True):
        result = host.generate(prompt, args, **negative)
        assert near(result.images[0], image) and told(result) == []
        assert "persresown" not in str(result.info) and result.infotexts[0].startswith(prompt)
    # what the user typed is the user's embedding, as everywhere
    result = host.generate("a olis dog in snow <persres:rex>", LAG)
    assert same(result.images[0], host.image("a olis dog in snow"))
    assert told(result)[0].startswith("V* of <persres:rex> is not in the prompt")


def test_a_users_embedding_called_like_the_class_is_the_class(host, embedding):
    embedding("dog")
    result = host.generate(REX, LAG)
    assert told(result) == [] and not near(result.images[0], host.image("a photo of a olis dog"))
    host.post("/probe/watch-tokens")
    host.image(REX, LAG)
    assert host.post("/probe/tokens") == [[[[5, 6, 7]]]]


# -- models that a residual does not fit


@pytest.fixture(scope="module")
def wide(host):
    """A checkpoint that the residuals of the others do not fit, and a residual for it."""
    unet = models.tiny_unet(model_channels=64)
    save_checkpoint(host.data / "models" / "Stable-diffusion" / WIDE, unet)
    make_residual(host.data, "broad", unet, 3, "olis", "dog")
    host.post("/sdapi/v1/refresh-checkpoints")
    return WIDE


def test_where_the_hires_checkpoint_does_not_fit_the_first_pass_is_said_to_be_drawn_with_it(host, wide):
    result = host.generate(REX, LAG, **HIRES, hr_checkpoint_name=wide)
    (sentence,) = told(result)
    assert sentence.startswith("<persres:rex> was not applied in the hires pass, only before or after it: rex was")
    assert "Persres partly applied: rex (not in the hires pass)" in result.infotexts[0]
    assert "not applied" not in result.infotexts[0] and "Persres hashes" in result.infotexts[0]
    result = host.generate(REX.replace("rex", "broad"), LAG, **HIRES, hr_checkpoint_name=wide)
    (sentence,) = told(result)
    assert sentence.startswith("<persres:broad> was not applied in the first pass, only")


def test_where_the_refiner_does_not_fit_the_steps_before_it_are_said_to_be_drawn_with_it(host, wide):
    refiner = {"refiner_checkpoint": wide, "refiner_switch_at": 0.5, "steps": 4}
    result = host.generate(REX, LAG, **refiner)
    (sentence,) = told(result)
    assert sentence.startswith("<persres:rex> was not applied in the refiner's part of the first pass, only before")
    assert result.info["extra_generation_params"]["Persres not applied"] == {}
    assert list(result.info["extra_generation_params"]["Persres partly applied"]) == ["rex"]
    # as it is where nothing fits
    nowhere = host.generate(REX.replace("rex", "broad"), LAG)
    assert told(nowhere)[0].startswith("<persres:broad> was not applied: broad was trained for another model")
    refined = {**refiner, "refiner_checkpoint": OTHER}
    assert told(host.generate(REX, LAG, **refined)) == []


# -- data


def test_a_residual_of_another_checkpoint_is_data_and_no_warning(host):
    from lib_persres.residual import Residual

    folder = host.data / "models" / "persres"
    other = Residual.load(folder / "rex.safetensors")
    other.metadata.base_hash = "ab" * 32
    other.save(folder / "away.safetensors")
    prompt = REX.replace("rex", "away")
    assert "trained on" not in host.generate(prompt).infotexts[0]  # the WebUI knows no hash of its own
    host.post("/probe/checkpoint/" + "cd" * 32)
    try:
        result = host.generate(prompt, LAG)
        assert "Persres trained on: away: ababababab" in result.infotexts[0].replace('"', "") and told(result) == []
        assert result.info["extra_generation_params"]["Persres trained on"] == {"away": "ab" * 5}
        assert "trained on" not in host.generate(REX, LAG).infotexts[0]
        host.post("/probe/checkpoint/" + "ab" * 32)
        assert "trained on" not in host.generate(prompt, LAG).infotexts[0]
    finally:
        host.post("/probe/checkpoint/none")
