"""Residuals and LAG together with the WebUI's other features.

Two properties say that a result is right. With masks of ones LAG is plain sampling, whatever else happens to the
batch. And a residual of the same ΔW as a LoRA draws what the LoRA draws.
"""

import base64
import io
import os
from pathlib import Path

import numpy as np
import pytest
from checkout import A1111, BACKTRACKS, EXTENSIONS, needs_flags_for_little_memory
from companions import EMBEDDING, OTHER, VECTORS
from host import ROOT, Host, Result, body_of, make_data
from lag_checks import BASE, OPTIMIZATIONS, check_lag
from pictures import HIRES, LAG, REX, near, same
from PIL import Image
from requests_without import REQUESTS
from words import agree, learned, private

REFINER = {"refiner_checkpoint": OTHER, "refiner_switch_at": 0.5, "steps": 4}


# -- sizes, passes, models


SETUPS = {
    "one image": {},
    "batch of 2": {"batch_size": 2},
    "two batches": {"n_iter": 2},
    "72x64": {"width": 72},
    "56x120": {"width": 56, "height": 120},
    "hires": HIRES,
    "hires by an upscaler": {**HIRES, "hr_upscaler": "Lanczos", "hr_scale": 1.5},
    "hires with another checkpoint": {**HIRES, "hr_checkpoint_name": OTHER},
    "refiner": REFINER,
    "refiner and hires": {**HIRES, **REFINER},
    "refiner of a second-order sampler": {**REFINER, "sampler_name": "Heun"},
    "refiner and two batches": {**REFINER, "n_iter": 2},
}


@pytest.mark.parametrize("name", SETUPS)
def test_lag_with_masks_of_ones_is_plain_sampling(host, reference, name):
    check_lag(host, lambda prompt, args: host.generate(prompt, args, **SETUPS[name]).images)
    assert same(host.image("a photo of a dog"), reference["plain"][0])


@pytest.mark.parametrize("name", ["refiner", "hires with another checkpoint"])
def test_with_two_models_in_memory(host, reference, name):
    with host.options(sd_checkpoints_limit=2):
        check_lag(host, lambda prompt, args: host.generate(prompt, args, **SETUPS[name]).images)
        assert same(host.generate("a dog", **SETUPS[name]).images[0], reference[name][0])
    assert same(host.image("a photo of a dog"), reference["plain"][0])


def test_the_residual_acts_on_the_refiner_too(host):
    def draw(tag):
        return host.image(f"a photo of a V* dog {tag}", **early)

    early = {**REFINER, "refiner_switch_at": 0.25}
    base, full = host.image(BASE, **early), draw("<persres:rex>")
    before, after = draw("<persres:rex:end=0.25>"), draw("<persres:rex:start=0.25>")
    images = [base, full, before, after]
    # to the bit: the last steps change little
    assert not any(same(a, b) for i, a in enumerate(images) for b in images[:i])
    assert not near(after, base)


@pytest.mark.parametrize("limit", [1, 2])
def test_switching_the_model_leaves_nothing(host, reference, limit):
    lag = host.image(REX, LAG)
    with host.options(sd_checkpoints_limit=limit):
        with host.options(sd_model_checkpoint=OTHER):
            other = host.image(REX, LAG)
            assert not near(other, lag) and not near(other, host.image(BASE))
            assert host.get("/probe/hooks") == []
        assert same(host.image("a photo of a dog"), reference["plain"][0])
        assert same(host.image(REX, LAG), lag)
    assert host.get("/probe/hooks") == []


# -- attention


@pytest.mark.parametrize("title", OPTIMIZATIONS)
def test_attention_optimizations(host, title):
    usual = [host.image(prompt, args) for prompt, args in ((BASE, None), (REX, None), (REX, LAG))]
    if not A1111:
        pytest.skip("This host chooses its attention when it starts.")
    with host.options(cross_attention_optimization=title):
        assert host.get("/probe/attention") == OPTIMIZATIONS[title]
        check_lag(host, lambda prompt, args: [host.image(prompt, args)])
        now = [host.image(prompt, args) for prompt, args in ((BASE, None), (REX, None), (REX, LAG))]
    for a, b in zip(usual, now, strict=True):
        assert near(a, b)


# -- img2img


def png(array) -> str:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize("whole", [True, False])
def test_inpainting(host, whole):
    start = host.image("a house")
    mask = np.zeros_like(start)
    mask[:, 32:] = 255
    more = {"init_images": [png(start)], "mask": png(mask), "mask_blur": 0, "inpainting_fill": 1}
    more |= {"denoising_strength": 0.9, "inpaint_full_res": not whole, "inpaint_full_res_padding": 8}

    def draw(prompt, args):
        (image,) = Result(host.post("/sdapi/v1/img2img", {**body_of(prompt, args, {}), **more})).images
        assert near(image[:, :32], start[:, :32])
        return [image]

    check_lag(host, draw)


# -- LoRA


def test_a_lora_and_a_residual_add_up_and_either_leaves_no_trace(host, reference):
    rex, mia = "a olis dog <persres:rex>", "a olis dog <persres:mia>"
    alone, both = host.image(rex), host.image("a olis dog <persres:rex><persres:mia>")
    lora = host.image("a olis dog <lora:mia:1>")
    assert near(lora, host.image(mia)) and not near(lora, host.image("a olis dog"))
    for prompt in ("a olis dog <persres:rex><lora:mia:1>", "a olis dog <lora:mia:1><persres:rex>"):
        together = host.image(prompt)
        assert near(together, both) and not near(together, lora) and not near(together, alone)
        assert same(host.image("a olis dog <lora:mia:1>"), lora)
        host.image(prompt)
        assert same(host.image(rex), alone)
        host.image(prompt)
        assert same(host.image("a photo of a dog"), reference["plain"][0])
    assert host.get("/probe/hooks") == []


def test_lag_confines_the_residual_and_leaves_the_lora_alone(host):
    both = host.image("a V* dog <persres:rex:lag=on><persres:mia:lag=off>")
    assert near(host.image("a V* dog <persres:rex><lora:mia:1>", LAG), both)
    assert near(host.image("a V* dog <lora:mia:1><persres:rex>", LAG), both)
    assert not near(host.image("a V* dog <persres:rex>", LAG), both)


# -- which tokens the maps are of


CASES = {
    "plain": "a photo of a V* dog",
    "an embedding before": f"a {EMBEDDING}, {EMBEDDING} and a V* dog",
    "an embedding right before": f"a {EMBEDDING} V* dog",
    "emphasis": "((a photo)) of a (V* dog:1.3) in [snow]",
    "emphasis on V* alone": "a photo of a (V*:1.2) dog",
    "BREAK": "a house BREAK a V* dog BREAK snow",
    "over 75 tokens": "house " * 90 + "V* dog",
    "over 75 tokens with an embedding": "house " * 70 + f"{EMBEDDING} {EMBEDDING} V* dog",
    "comma before the end of a chunk": "house, " * 36 + "a photo of a V* dog in snow",
    "right at the end of a chunk": "house " * 73 + "V* dog",
    "right at the start of a chunk": "house " * 75 + "V* dog",
}


def places(host, prompt) -> list[int]:
    """Where the model's own text encoder first sees another identifier, and another class."""
    text = prompt.replace("V* dog", "olis dog").replace("(V*:1.2) dog", "(olis:1.2) dog")
    other_identifier, other_class = text.replace("olis", "phol"), text.replace("dog", "cat")
    return [host.post("/probe/first-difference", {"a": text, "b": b}) for b in (other_identifier, other_class)]


def marked(host, prompt, **parameters) -> list:
    host.post("/probe/watch-tokens")
    host.image(prompt, LAG, **parameters)
    return host.post("/probe/tokens")


@pytest.mark.parametrize("name", CASES)
def test_the_maps_are_of_the_tokens_that_the_model_sees(host, name):
    # else emphasis changes every vector of its chunk
    with host.options(emphasis="No norm"):
        assert marked(host, CASES[name] + " <persres:rex>") == [[[places(host, CASES[name])]]]


def test_comma_backtracking_moves_the_tokens(host):
    prompt, found = CASES["comma before the end of a chunk"], []
    for backtrack in (20, 0):
        with host.options(comma_padding_backtrack=backtrack):
            found.append(places(host, prompt))
            assert marked(host, prompt + " <persres:rex>") == [[[found[-1]]]]
    assert (found[0] != found[1]) == BACKTRACKS


def test_an_embedding_takes_as_many_places_as_it_has_vectors(host):
    with_it, without = (places(host, f"a {word} and a V* dog") for word in (EMBEDDING, "house"))
    assert [index + VECTORS - 1 for index in without] == with_it


# -- styles


@pytest.mark.parametrize(
    "style, prompt, same_as",
    [
        ("with the tag", "a photo of a V* dog", "a photo of a V* dog, <persres:rex:0.85>"),
        ("with V*", "in snow <persres:rex>", "in snow <persres:rex>, a photo of a V* dog"),
        ("with both", "in snow", "a photo of a V* dog <persres:rex:0.8>, in snow"),
    ],
)
def test_styles_may_hold_the_tag_and_the_placeholder(host, style, prompt, same_as):
    negative = "bad" if style == "with both" else ""
    by_style = host.generate(prompt, LAG, styles=[style])
    assert same(by_style.images[0], host.image(same_as, LAG, negative_prompt=negative))
    assert "Persres hashes" in by_style.infotexts[0]


# -- little memory


@pytest.fixture(params=["--medvram", "--lowvram"])
def small(request, host, tmp_path):
    """A WebUI that moves the parts of its model about; on a CPU it goes all the same ways."""
    needs_flags_for_little_memory()
    data = tmp_path / "data"
    make_data(data, {"persres": ROOT, "probe": EXTENSIONS["probe"]})
    small = Host(Path(os.environ["PERSRES_WEBUI"]), data, request.param)
    try:
        yield small.wait()
    finally:
        small.stop()


def test_medvram_and_lowvram(host, small, reference):
    for name in ("plain", "hires", "refiner", "AND"):
        assert same(small.generate(**REQUESTS[name]).images[0], reference[name][0])
    for parameters in ({}, HIRES, REFINER, {**HIRES, "hr_prompt": "a V* cat <persres:mia>"}):
        check_lag(small, lambda prompt, args: small.generate(prompt, args, **parameters).images)  # noqa: B023
        assert near(small.image(REX, LAG, **parameters), host.image(REX, LAG, **parameters))
    learned(small, "ana", 1)
    for parameters in ({}, HIRES, REFINER):
        agree(small, "a V* dog", **parameters)
    assert private(small.get("/probe/embeddings")) == []
    assert same(small.image("a photo of a dog"), reference["plain"][0])
