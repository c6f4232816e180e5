"""Embeddings that residuals bring draw what the same vectors draw as the user's own embedding, and go with the tag."""

import json
import os
import time

import pytest
import standalone_models as models
import torch
from companions import OTHER
from host import Result, make_residual
from pictures import HIRES, LAG, PROBLEMS, near, same
from words import WIDTH, agree, learned, private, user_embedding

from lib_persres.residual import Factors, Metadata, Residual


@pytest.fixture(scope="module", autouse=True)
def files(host):
    learned(host, "ana", 1)
    learned(host, "bea", 2)  # of the same identifier
    learned(host, "trio", 3, (3, WIDTH))
    learned(host, "flat", 4, (WIDTH,))
    learned(host, "both", 5, targets="embedding+proj_out")
    learned(host, "duo", 6, (2, WIDTH), "olis", "embedding+proj_out")
    host.post("/persres/v1/refresh")
    host.image("a house")  # the user's embeddings are read
    yield
    for path in (host.data / "embeddings").glob("my*.safetensors"):
        path.unlink()
    later = time.time() + 20
    os.utime(host.data / "embeddings", (later, later))


@pytest.fixture(autouse=True)
def nothing_left(host):
    yield
    assert private(host.get("/probe/embeddings")) == [] and host.get("/probe/hooks") == []


CALLS = {
    "plain": {"prompt": "a photo of a V* dog"},
    "emphasis": {"prompt": "a (V*:1.4) dog, [V*]"},
    "commas": {"prompt": "V*,V* dog-V*, a V*'s dog"},
    "schedule": {"prompt": "a [V* dog:cat:0.5]"},
    "late": {"prompt": "a [cat:V* dog:0.4] and [V*|cat]"},
    "AND": {"prompt": "a V* dog AND a house :0.5"},
    "second chunk": {"prompt": "a house " * 45 + "BREAK a V* dog"},
    "over 75 tokens": {"prompt": "a house, " * 40 + "a V* dog"},
    "negative": {"prompt": "a dog", "negative_prompt": "a V*"},
    "batch": {"prompt": "a V* dog", "batch_size": 2, "n_iter": 2},
    "hires": {"prompt": "a V* dog", **HIRES},
    "hires with another checkpoint": {"prompt": "a V* dog", **HIRES, "hr_checkpoint_name": OTHER},
    "refiner": {"prompt": "a V* dog", "refiner_checkpoint": OTHER, "refiner_switch_at": 0.5, "steps": 4},
}


@pytest.mark.parametrize("call", CALLS)
def test_it_draws_what_the_users_own_embedding_draws(host, call):
    agree(host, **CALLS[call])


@pytest.mark.parametrize("name", ["trio", "flat"])
def test_vectors_of_any_number(host, name):
    agree(host, "a V* dog", f"<persres:{name}>", f"my{name}")


def test_a_style_and_the_old_emphasis(host):
    (ours,) = host.generate("<persres:ana>", styles=["with V*"]).images
    assert same(ours, host.image(", a photo of a myana dog"))
    with host.options(use_old_emphasis_implementation=True):
        agree(host, "a (V*) dog")
        assert "persres" not in json.dumps(host.generate("a dog").info)


def test_with_factors_both_act_and_lag_confines_the_factors(host):
    both, word, factors = (
        host.image(prompt) for prompt in ("a V* dog<persres:both>", "a myboth dog", "a myboth dog<persres:both>")
    )
    assert not near(both, word) and same(both, factors)
    lag = host.image("a V* dog<persres:both>", LAG)
    assert not near(lag, both) and not near(lag, word)


def test_two_concepts_of_one_identifier_keep_their_vectors(host):
    two = host.image("a V1* dog and a V2* cat <persres:ana><persres:bea>")
    assert same(two, host.image("a myana dog and a mybea cat"))
    assert not near(two, host.image("a mybea dog and a myana cat"))


def test_each_image_of_a_batch_has_its_own_word(host):
    prompts = ["a V* dog", "a V* dog <persres:ana>", "a V* dog <persres:bea>", "a V2* dog <persres:bea><persres:ana>"]
    plain = ["a V* dog", "a myana dog", "a mybea dog", "a myana dog"]
    batch, expected = (host.generate("||".join(texts), batch_size=4).images[-4:] for texts in (prompts, plain))
    assert all(map(same, batch, expected))


def test_lag_sees_every_vector_and_the_class(host):
    prompt = "a house and a V* red dog, (V2*:1.2) dog <persres:duo><persres:both>"
    host.post("/probe/watch-tokens")
    host.image(prompt, LAG)
    assert host.post("/probe/tokens") == [[[[5, 6, 8], [10, 11]]]]
    long = "a house " * 45 + "BREAK a V* dog <persres:duo>"
    host.post("/probe/watch-tokens")
    host.image(long, LAG)
    (((marked,),),) = host.post("/probe/tokens")
    assert marked == [2 * 77 + 2, 2 * 77 + 3, 2 * 77 + 4]


def test_lag_leaves_out_what_nothing_asks_for(host):
    for tag in ("<persres:both>", "<persres:rex>"):
        result = host.generate("a photo of a house" + tag, LAG)
        assert same(result.images[0], host.image("a photo of a house"))
        assert "LAG leaves the residual out" in str(result.info["extra_generation_params"][PROBLEMS])


def test_an_embedding_alone_under_lag_is_told(host):
    result = host.generate("a V* dog<persres:ana>", LAG)
    assert same(result.images[0], host.image("a myana dog"))
    assert "LAG cannot confine <persres:ana>, which changes embedding" in str(result.info)


def test_strength_zero_leaves_it_out_in_its_pass(host):
    base = host.image("a phol dog")
    assert same(host.image("a V* dog<persres:ana:0>"), base)
    assert same(host.image("a V* dog<persres:ana>", [{"strength": 0}]), base)
    assert same(host.image("a V* dog<persres:ana:0.3>"), host.image("a myana dog"))
    hires = host.image("a V* dog<persres:ana:hr=0>", **HIRES)
    assert same(hires, host.image("a myana dog", **HIRES, hr_prompt="a phol dog"))
    assert not same(hires, host.image("a V* dog<persres:ana>", **HIRES))


# -- names


def test_a_users_embedding_called_as_the_identifier_and_ours_do_not_meet(host):
    vectors = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(9))
    user_embedding(host, "phol", vectors)
    user_embedding(host, "persres", vectors)
    try:
        theirs = host.image("a phol dog")
        assert same(theirs, host.image("a persres dog"))
        assert same(host.image("a V* dog<persres:ana>"), host.image("a myana dog"))
        assert same(host.image("a phol dog<persres:ana>"), host.image("a myana dog"))  # typed, it is the concept's
        assert same(host.image("a persres V* dog<persres:ana>"), host.image("a persres myana dog"))
        assert same(host.image("a phol dog"), theirs) and not near(theirs, host.image("a myana dog"))
    finally:
        for name in ("phol", "persres"):
            (host.data / "embeddings" / f"{name}.safetensors").unlink()
        user_embedding(host, "myana", Residual.load(host.data / "models/persres/ana.safetensors").embeddings["phol"])
        host.image("a house")


def test_the_infotext_is_the_users_own_text(host):
    prompt, negative = "a V* dog and a phol <persres:ana>", "a bad V*"
    result = host.generate(prompt, negative_prompt=negative, batch_size=2, **HIRES)
    for infotext in result.infotexts:
        assert infotext.startswith(prompt) and f"Negative prompt: {negative}\n" in infotext
    short = next(e["hash"] for e in host.get("/persres/v1/residuals") if e["name"] == "ana")[:10]
    assert f"ana: {short}" in result.infotexts[0]  # the hash of the file, as of every residual
    assert f"persres{short}" not in json.dumps(result.info) and "TI hashes" not in result.infotexts[0]
    single = host.generate(prompt, negative_prompt=negative)
    again = Result(host.post("/sdapi/v1/txt2img", {"infotext": single.infotexts[0]}))
    assert same(again.images[0], single.images[0]) and again.infotexts == single.infotexts


# -- nothing is left


def test_the_words_are_there_only_while_texts_are_encoded(host, reference):
    before = host.get("/probe/embeddings")
    host.post("/probe/encoding/watch")
    host.image("a quiet V* dog<persres:ana>")
    during = host.get("/probe/encoding")
    assert len(private(during)) == 1 and during["names"] == before["names"]
    assert host.get("/probe/embeddings") == before
    assert same(host.image("a photo of a dog"), reference["plain"][0])
    assert same(host.image("a photo of a V* dog"), reference["V* is a word"][0])


def test_after_an_exception_in_the_text_encoder_nothing_is_left(host, reference):
    before = host.get("/probe/embeddings")
    host.post("/probe/encoding/raise")
    with pytest.raises(RuntimeError, match="broken by the test"):
        host.image("an unheard V* dog<persres:ana>")
    assert private(host.get("/probe/encoding")) and host.get("/probe/embeddings") == before
    assert same(host.image("a photo of a dog"), reference["plain"][0])


@pytest.mark.parametrize("how", ["raise", "interrupt", "skip"])
def test_after_a_broken_generation_nothing_is_left(host, reference, how):
    before = host.get("/probe/embeddings")
    host.post(f"/probe/break/{how}/2")
    try:
        host.image("a V* dog<persres:both>", LAG)
    except RuntimeError as error:
        assert how == "raise" and "broken by the test" in str(error)
    assert host.get("/probe/broken")
    assert host.get("/probe/embeddings") == before and host.get("/probe/hooks") == []
    assert same(host.image("a photo of a dog"), reference["plain"][0])


def test_a_changed_file_is_not_drawn_from_the_conds_of_the_old_one(host):
    prompt = "a V* dog<persres:later>"
    learned(host, "later", 10)
    first = host.image(prompt)
    learned(host, "later", 11)
    second = host.image(prompt)
    assert same(second, host.image("a mylater dog")) and not near(first, second)


# -- what does not fit


def test_vectors_of_another_width_are_told_and_left_out(host):
    wide = Metadata(concept="wide", identifier="phol", macro_class="dog", targets="embedding")
    Residual({}, wide, {"phol": torch.ones(1, 768)}).save(host.data / "models" / "persres" / "wide.safetensors")
    result = host.generate("a V* dog<persres:wide>")
    assert same(result.images[0], host.image("a phol dog"))
    assert "Persres not applied: wide" in result.infotexts[0]
    told = str(result.info["extra_generation_params"][PROBLEMS])
    assert "has 768 numbers where this model's text encoder has 32" in told
    rest = Residual.load(host.data / "models" / "persres" / "both.safetensors")
    both = Residual(rest.factors, rest.metadata, {"phol": torch.ones(2, 768)})
    both.save(host.data / "models" / "persres" / "half.safetensors")
    zeros = {path: Factors(f.down, f.up) for path, f in rest.factors.items()}
    plain = Residual(zeros, Metadata(concept="p", identifier="phol", macro_class="dog"))
    plain.save(host.data / "models" / "persres" / "plainer.safetensors")
    result = host.generate("a V* dog<persres:half>")
    assert same(result.images[0], host.image("a V* dog<persres:plainer>"))
    assert "has 768 numbers" in str(result.info["extra_generation_params"][PROBLEMS])
    assert "Persres not applied" not in result.infotexts[0]


def test_a_residual_of_another_model_leaves_its_word_out_too(host):
    path = make_residual(host.data, "foreign", models.tiny_unet(model_channels=64), 3, "phol", "dog")
    other = Residual.load(path)
    other.metadata.targets = "embedding+proj_out"
    Residual(other.factors, other.metadata, {"phol": torch.ones(1, WIDTH)}).save(path)
    result = host.generate("a V* dog<persres:foreign>")
    assert same(result.images[0], host.image("a phol dog"))
    assert "Persres not applied: foreign" in result.infotexts[0]
