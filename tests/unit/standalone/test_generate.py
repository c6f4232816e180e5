from contextlib import contextmanager

import pytest
import torch
from generate_bench import concept, speaking

pytest.importorskip("ldm")

import longhand
from branch_calls import ones, zeros
from rounding import PICTURE

from lib_persres.errors import PersresError
from lib_persres.residual import Factors, Residual
from lib_persres.standalone import generate as module
from lib_persres.standalone.generate import generate

STEPS = 3
TAG, PROMPT = "<persres:rex>", "a photo of a V* dog on a beach"
SEEN = "a photo of a olis dog on a beach"


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return speaking(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def shelf(sd):
    return {
        "rex": concept(sd, "rex"),
        "mia": concept(sd, "mia", rank=3, seed=1, identifier="phol", macro_class="cat"),
    }


@pytest.fixture(scope="module")
def make(sd, shelf):
    def call(prompt, **options):
        options = {"width": 16, "height": 16, "steps": STEPS, **options}
        return generate(sd, prompt, options.pop("shelf", shelf).__getitem__, **options)

    return call


def same(one, other):
    return torch.equal(one.images, other.images)


def near(one, other):
    return (one.images - other.images).abs().max() < PICTURE


def differ(one, other):
    return (one.images - other.images).abs().max() > 4 * PICTURE


# -- numbers that are not finite


@contextmanager
def spoiled(weight):
    before = weight.data.clone()
    weight.data.fill_(float("nan"))
    try:
        yield
    finally:
        weight.data.copy_(before)


@pytest.mark.parametrize("lag", [False, True])
def test_a_strength_that_overflows_is_named_and_nothing_is_drawn(make, lag, monkeypatch):
    monkeypatch.setattr("lib_persres.prompt.MAX_STRENGTH", 1e30)  # in half precision a smaller one would do
    with pytest.raises(PersresError) as error:
        make("<persres:rex:1e30>" + PROMPT, lag=lag)
    assert str(error.value).endswith("<persres:rex:1e30> acts at strength 1e+30; lower its strength.")


def test_a_part_of_the_checkpoint_that_is_not_finite_is_named(make, sd):
    parts = {
        "The base model alone": sd.unet.out[2].bias,
        "The text encoder": sd.token_embedding.weight,
        "The VAE": next(sd.vae.decoder.parameters()),
    }
    for name, weight in parts.items():
        with spoiled(weight):
            for prompt in (TAG + PROMPT, SEEN) if name != "The VAE" else (TAG + PROMPT,):
                with pytest.raises(PersresError) as error:
                    make(prompt)
                assert str(error.value).startswith(name) and "strength" not in str(error.value)


# -- tags and strength


def test_a_tag_makes_a_difference_and_lag_another(make):
    base, plain = make(SEEN), make(TAG + PROMPT)
    lag = make(TAG + PROMPT, lag=True)
    assert plain.text == lag.text == SEEN
    assert differ(base, plain) and differ(plain, lag) and differ(base, lag)
    assert not (base.problems or plain.problems or lag.problems)
    assert base.masks is None and plain.masks is None and lag.masks is not None
    assert base.images.shape[:2] == (1, 3) and 0 <= base.images.min() and base.images.max() <= 1


def test_strength_zero_is_the_base_image_and_strength_scales_the_residual(make, sd, shelf):
    for lag in (False, True):
        assert same(make("<persres:rex:0>" + PROMPT, lag=lag), make(SEEN))
    half = {t: Factors(f.down, f.up * 0.5) for t, f in shelf["rex"].factors.items()}
    halved = {"rex": Residual(half, shelf["rex"].metadata)}
    assert same(make("<persres:rex:0.5>" + PROMPT), make(TAG + PROMPT, shelf=halved))  # halves are exact
    assert differ(make("<persres:rex:0.5>" + PROMPT), make(TAG + PROMPT))


def test_the_images_of_a_tag_are_those_of_merged_weights(make, sd, shelf):
    plain = make("<persres:rex:0.7><persres:mia:0.4>" + PROMPT)
    untouched = sd.unet
    try:
        sd.unet = longhand.merged(untouched, [shelf["rex"], shelf["mia"]], [0.7, 0.4])
        explicit = make(SEEN)
    finally:
        sd.unet = untouched
    assert near(plain, explicit) and differ(plain, make(SEEN))


def test_a_tag_says_whether_its_concept_is_localized(make):
    assert same(make("<persres:rex:lag=on>" + PROMPT), make(TAG + PROMPT, lag=True))
    assert same(make("<persres:rex:lag=off>" + PROMPT, lag=True), make(TAG + PROMPT))


def test_a_mask_of_ones_is_plain_sampling_and_of_zeros_the_base(make, monkeypatch):
    monkeypatch.setitem(module.MASKS, "ones", ones)
    monkeypatch.setitem(module.MASKS, "zeros", zeros)
    assert same(make(TAG + PROMPT, lag=True, mask="ones"), make(TAG + PROMPT))
    assert same(make(TAG + PROMPT, lag=True, mask="zeros"), make(SEEN))


def test_unconditional_rows_on_base_differ_from_mirror_and_not_without_guidance(make):
    mirror, base = (make(TAG + PROMPT, lag=True, unconditional=u) for u in ("mirror", "base"))
    assert differ(mirror, base)
    mirror, base = (make(TAG + PROMPT, lag=True, unconditional=u, guidance=1) for u in ("mirror", "base"))
    assert same(mirror, base)


def test_of_two_tags_of_one_concept_the_last_counts(make):
    assert same(make("<persres:rex:0.3><persres:rex:0.8>" + PROMPT), make("<persres:rex:0.8>" + PROMPT))


# -- start and end


def test_start_and_end_are_parts_of_the_sampling(make, sd, monkeypatch):
    calls = []

    class Recording(module.Branches):
        def __setattr__(self, name, value):
            if name == "plan":
                calls.append(None if value is None else value.strength[0].tolist())
            super().__setattr__(name, value)

    monkeypatch.setattr(module, "Branches", Recording)
    make("<persres:rex:0.5:start=0.2:end=0.6><persres:mia:start=0.6>" + PROMPT, steps=5)
    assert calls == [None, [0.5, 0.0], [0.5, 0.0], [0.0, 1.0], [0.0, 1.0]]


def test_a_tag_that_never_acts_is_the_base_image_and_one_for_the_whole_time_is_the_plain_one(make):
    assert same(make("<persres:rex:start=0.9>" + PROMPT), make(SEEN))  # the last step begins at 2/3
    assert same(make("<persres:rex:start=0:end=1>" + PROMPT), make(TAG + PROMPT))
    late, plain = make("<persres:rex:start=0.3>" + PROMPT), make(TAG + PROMPT)
    assert differ(late, plain) and differ(late, make(SEEN))


# -- the concept's tokens


def test_the_concepts_tokens_are_where_they_are_in_the_context(make, sd):
    result = make(TAG + PROMPT, lag=True)
    ids = sd.encode_prompts([result.text])[1][0]
    ((indices,),) = (use.indices for use in result.uses)
    spelled = sd.text.tokenizer.token_strings([ids[i] for i in indices])
    assert spelled == ["olis</w>", "dog</w>"]


def test_lag_uses_just_those_tokens_of_the_conditional_rows(make, monkeypatch):
    plans = []

    class Spy(module.Plans):
        def plan(self, *arguments):
            plans.append(super().plan(*arguments))
            return plans[-1]

    monkeypatch.setattr(module, "Plans", Spy)
    result = make("<persres:rex><persres:mia>a V1* dog and a V2* cat", seeds=(1, 2), lag=True)
    assert len(plans) == STEPS
    for plan in plans:
        assert plan.places == (0, 1) and plan.indicator.shape == (2, 2, 77)
        for image in range(2):
            for index in range(2):
                marked = plan.indicator[image, index].nonzero().flatten()
                assert (tuple(marked.tolist()),) == result.uses[index].indices
    assert [len(use.indices[0]) for use in result.uses] == [2, 2]


def test_lag_without_v_in_the_prompt_is_the_base_image_and_a_problem_sentence(make):
    result = make(TAG + "a photo of a dog on a beach", lag=True)
    assert same(result, make("a photo of a dog on a beach"))
    assert differ(result, make(TAG + "a photo of a dog on a beach"))
    (problem,) = result.problems
    assert "V*" in problem and "rex" in problem and "leaves the residual out" in problem and "\n" not in problem
    assert result.masks is None
    # without LAG nothing is wrong with the image, yet the user is told that nothing asks for the concept
    (problem,) = make(TAG + "a photo of a dog on a beach").problems
    assert "V*" in problem and "rex" in problem


def test_lag_without_the_class_says_so_and_still_localizes(make):
    result = make(TAG + "a photo of V* on a beach", lag=True)
    assert len(result.problems) == 1 and "dog" in result.problems[0]
    assert differ(result, make(TAG + "a photo of V* on a beach"))


def test_one_concept_found_and_one_not_localizes_the_one(make):
    both = "<persres:rex><persres:mia>"
    result = make(both + PROMPT, lag=True)
    assert len(result.problems) == 1 and "mia" in result.problems[0]
    # what stands still adds zeros, yet to products of another shape
    assert near(result, make(TAG + PROMPT, lag=True)) and differ(result, make(both + PROMPT))


def test_a_prompt_beyond_75_tokens_is_reported(make):
    result = make(TAG + "very " * 80 + PROMPT, lag=True)
    assert any("75" in problem for problem in result.problems)
    assert any("V*" in problem for problem in result.problems)
    assert same(result, make("very " * 80 + SEEN))


# -- batches and sizes


@pytest.mark.parametrize("lag", [False, True])
def test_a_batch_of_seeds_equals_its_singles(make, lag):
    batch = make(TAG + PROMPT, lag=lag, seeds=(1, 2, 3))
    singles = [make(TAG + PROMPT, lag=lag, seeds=(seed,)) for seed in (1, 2, 3)]
    together = torch.cat([single.images for single in singles])
    assert (batch.images - together).abs().max() < PICTURE
    assert (together[0] - together[1]).abs().max() > 1e-2 and batch.seeds == [1, 2, 3]


def test_masks_are_recorded_for_every_step_image_and_concept(make, sd):
    result = make("<persres:rex><persres:mia>a V1* dog, a V2* cat", lag=True, mask="median", seeds=(1, 2), width=24)
    blocks = list(longhand.transformers(sd.unet))
    assert set(result.masks.calls) == set(blocks)
    assert set(result.masks.calls.values()) == {STEPS}
    mean = result.masks.mean()
    assert mean.shape == (2, 2, 8, 12)
    first = result.masks.masks[blocks[0]] / STEPS
    assert (first.mean((-1, -2)) - 0.5).abs().max() < 0.05


# -- files


@pytest.mark.parametrize("lag", [False, True])
def test_a_saved_and_loaded_residual_makes_the_identical_image(make, shelf, tmp_path, lag):
    rounded = {
        target: Factors(f.down.half().float(), f.up.half().float()) for target, f in shelf["rex"].factors.items()
    }
    memory = Residual(rounded, shelf["rex"].metadata)
    shelf["rex"].save(tmp_path / "rex.safetensors")
    loaded = Residual.load(tmp_path / "rex.safetensors")
    prompt = TAG + PROMPT
    assert same(make(prompt, lag=lag, shelf={"rex": loaded}), make(prompt, lag=lag, shelf={"rex": memory}))
    assert differ(make(prompt, lag=lag, shelf={"rex": loaded}), make(SEEN))


# -- what is left, and refusals


def test_generating_leaves_nothing_on_the_model_even_when_it_is_interrupted(make, sd):
    before = longhand.snapshot(sd.unet)
    make(TAG + PROMPT, lag=True)
    assert longhand.snapshot(sd.unet) == before

    def progress(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(TAG + PROMPT, lag=True, progress=progress)
    assert longhand.snapshot(sd.unet) == before


def test_the_same_arguments_make_the_same_image_whatever_came_before(make):
    first = make(TAG + PROMPT, lag=True)
    make("<persres:mia>a V* cat", seeds=(4, 5))
    assert same(make(TAG + PROMPT, lag=True), first)


def test_wrong_arguments_are_refused(sd, make, shelf):
    for options, word in (
        ({"width": 18}, "18×16"),
        ({"mask": "nothing"}, "median"),
        ({"unconditional": "other"}, "mirror"),
        ({"steps": 0}, "steps"),
    ):
        with pytest.raises(PersresError, match=word):
            make(TAG + PROMPT, **options)
    with pytest.raises(PersresError, match="no residuals"):
        generate(sd, TAG + PROMPT, None, width=16, height=16)
    with pytest.raises(PersresError, match="V2"):
        make(TAG + "a V2* dog")


def test_a_residual_of_another_model_is_refused_by_its_name(sd, make):
    other = concept(sd, "other")
    del other.factors["middle_block.1.proj_out"]
    with pytest.raises(PersresError, match="rex.*another model"):
        make(TAG + PROMPT, shelf={"rex": other})
