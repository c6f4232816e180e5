"""SD2 and SDXL in the real WebUI: the Toybox in their formats draws and learns there what it does in SD1's."""

import base64
import contextlib
import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import needs_flags_for_little_memory
from families import FAMILIES, INPAINTING, NAMES, NEGATIVE, REFINER, SMALL, draw, loaded, make_data, name_for_the_host
from host import Host, Result, body_of
from pictures import LAG, told
from PIL import Image
from safetensors.torch import load_file, save_file
from trainings import ROUTE, submit, wait

from lib_persres.lora.write import save_lora
from lib_persres.residual import Factors, Metadata, Residual
from lib_persres.standalone.checkpoint import load
from lib_persres.toybox import CHECKPOINT
from lib_persres.toybox.concepts import CONCEPTS, photograph

WEBUI = Path(os.environ["PERSRES_WEBUI"])
OTHERS = FAMILIES[1:]
BALL = "a photo of a V* ball on grass"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory, reference):
    """It comes after `reference`, so that one WebUI starts at a time."""
    data = tmp_path_factory.mktemp("families") / "data"
    make_data(data)
    zoo = Host(WEBUI, data)
    try:
        zoo.wait()
        learned = residual()
        for family in FAMILIES:
            of_family = replace(learned.metadata, base_family=family, concept=f"rex {family}")
            Residual(learned.factors, of_family).save(data / "models" / "persres" / f"rex-{family}.safetensors")
        zoo.post("/persres/v1/refresh")
        yield zoo
    finally:
        zoo.stop()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return photograph(CONCEPTS[0], tmp_path_factory.mktemp("photos"), 2)


def residual() -> Residual:
    """One that changes much."""
    generator = torch.Generator().manual_seed(1)
    made = Residual.initialise(
        load(CHECKPOINT, "cpu").unet, "4", generator, Metadata(identifier="olis", macro_class="ball")
    )
    for path, factors in made.factors.items():
        made.factors[path] = Factors(factors.down, 0.2 * torch.randn(factors.up.shape, generator=generator))
    return made


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """Grey levels, on average."""
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


def tag(family: str, rest: str = "") -> str:
    return f"<persres:rex-{family}{rest}>"


def inpaint(zoo, family: str, prompt: str, args):
    """The right half of a picture of an even colour."""
    half = np.zeros((128, 128), np.uint8)
    half[:, 64:] = 255
    with loaded(zoo, family):
        body = {**SMALL, "negative_prompt": NEGATIVE, "denoising_strength": 0.9, "mask_blur": 0, "inpainting_fill": 1}
        body |= {"init_images": [encoded(np.full((128, 128, 3), 160, np.uint8))], "mask": encoded(half)}
        return Result(zoo.post("/sdapi/v1/img2img", body_of(prompt, args, body)))


def encoded(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


KINDS = {
    "base": lambda zoo, family: draw(zoo, family, "a photo of a red ball on grass"),
    "plain": lambda zoo, family: draw(zoo, family, BALL + tag(family)),
    "LAG": lambda zoo, family: draw(zoo, family, BALL + tag(family), LAG),
    "AND": lambda zoo, family: draw(zoo, family, f"{BALL} AND a blue box on sand :0.7 {tag(family)}", LAG),
    "editing": lambda zoo, family: draw(zoo, family, f"a photo of a V* [ball:star:0.5] on grass {tag(family)}", LAG),
    "batch": lambda zoo, family: draw(zoo, family, BALL + tag(family), LAG, batch_size=2, seed=8),
    "hires": lambda zoo, family: draw(
        zoo, family, BALL + tag(family, ":hr=0.5"), LAG, enable_hr=True, hr_scale=1.5, hr_upscaler="Latent",
        denoising_strength=0.6, hr_second_pass_steps=3,
    ),
    "strength": lambda zoo, family: draw(zoo, family, BALL + tag(family, ":0.4"), LAG),
}  # fmt: skip


@pytest.fixture(scope="module")
def sd1(zoo):
    """The SD1 file's pictures, by kind, each drawn once."""
    drawn = {}

    def of(kind: str) -> list[np.ndarray]:
        if kind not in drawn:
            drawn[kind] = KINDS[kind](zoo, "SD1").images
        return drawn[kind]

    return of


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_lora_draws_in_the_webui_what_the_residual_draws(zoo, family):
    name = f"exported-{family}"
    path = zoo.data / "models" / "Lora" / f"{name}.safetensors"
    made = Residual.load(zoo.data / "models" / "persres" / f"rex-{family}.safetensors")
    save_lora(made, path)
    name_for_the_host(path, family)
    zoo.post("/sdapi/v1/refresh-loras")
    said = BALL.replace("V*", "olis")
    base, ours = (draw(zoo, family, text).images[0] for text in (said, BALL + tag(family, ":0.8")))
    theirs = draw(zoo, family, f"{said}<lora:{name}:0.8>").images[0]
    again = draw(zoo, family, f"{said}<persres:{name}:0.8>").images[0]
    print(
        f"export.max_difference, {family}: {apart(ours, theirs) / 255:.5f}, imported {apart(again, theirs) / 255:.5f}"
    )
    assert max(apart(ours, theirs), apart(again, theirs)) / 255 <= 0.01 < apart(ours, base) / 255
    lag = draw(zoo, family, f"{BALL.replace('V*', 'olis')}<persres:{name}:0.8:word=olis+ball>", LAG)
    assert apart(lag.images[0], draw(zoo, family, BALL + tag(family, ":0.8"), LAG).images[0]) / 255 <= 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_for_the_text_encoders_draws_what_the_webui_draws_with_it(zoo, family):
    """In transformers' CLIP, and in OpenCLIP's, whose attention has no modules for queries, keys and values."""
    name, generator, tensors = f"reader-{family}", torch.Generator().manual_seed(2), {}
    encoders = load(zoo.data / "models" / "Stable-diffusion" / f"{NAMES[family]}.safetensors", "cpu").texts
    for start, encoder in zip(("lora_te1", "lora_te2") if family == "SDXL" else ("lora_te",), encoders.values()):
        for path, module in encoder.transformer.named_modules():
            inside = path.partition("layers.")[2]
            if inside and hasattr(module, "in_features"):
                key = f"{start}_text_model_encoder_layers_{inside.replace('.', '_')}"
                tensors[f"{key}.lora_down.weight"] = torch.randn(2, module.in_features, generator=generator)
                up = torch.randn(module.out_features, 2, generator=generator)
                tensors[f"{key}.lora_up.weight"] = up * 0.5 * module.in_features**-0.5
    made = Residual.load(zoo.data / "models" / "persres" / f"rex-{family}.safetensors")
    path = zoo.data / "models" / "Lora" / f"{name}.safetensors"
    save_lora(made, path)
    save_file(load_file(path) | tensors, path)
    name_for_the_host(path, family)
    zoo.post("/sdapi/v1/refresh-loras")
    said = BALL.replace("V*", "olis")
    theirs = draw(zoo, family, f"{said}<lora:{name}:0.8>").images[0]
    ours, off = (draw(zoo, family, f"{said}<persres:{name}:0.8{more}>").images[0] for more in ("", ":text=off"))
    print(f"{family}: {apart(ours, theirs) / 255:.5f}, without the text encoders' part {apart(off, theirs) / 255:.5f}")
    assert apart(ours, theirs) / 255 <= 0.01 < apart(off, theirs) / 255
    assert zoo.get("/probe/hooks") == []


@pytest.mark.parametrize("family", OTHERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_family_draws_what_sd1_does(zoo, sd1, kind, family):
    result = KINDS[kind](zoo, family)
    for one, other in zip(result.images, sd1(kind), strict=True):
        print(f"{family}, {kind}: {apart(one, other):.2g} grey levels on average")
        assert other.std() > 20 and apart(one, other) < 0.1
    assert zoo.get("/probe/hooks") == []


@pytest.mark.parametrize("kind", ["base", "LAG"])
@pytest.mark.parametrize("family", OTHERS)
def test_a_model_of_v_draws_what_that_of_the_noise_does(zoo, sd1, kind, family):
    prompt = {"base": "a photo of a red ball on grass", "LAG": BALL + tag(family)}[kind]
    (drawn,) = draw(zoo, f"{family} v", prompt, LAG if kind == "LAG" else None).images
    print(f"{family} v, {kind}: {apart(drawn, sd1(kind)[0]):.2g} grey levels on average")
    assert apart(drawn, sd1(kind)[0]) < 0.1


def test_an_inpainting_is_sd1s(zoo):
    """Nearly: the WebUI draws the latents of the picture below the mask at random, so SD1's is not its own, either."""
    (expected,) = inpaint(zoo, "SD1", BALL + tag("SD1"), LAG).images
    (base,) = inpaint(zoo, "SD1", "a photo of a olis ball on grass", LAG).images
    for family in (*OTHERS, INPAINTING):
        (drawn,) = inpaint(zoo, family, BALL + tag("SDXL" if family == INPAINTING else family), LAG).images
        print(f"{family}: {apart(drawn, expected):.2g} grey levels on average, the base {apart(base, expected):.2g}")
        assert apart(drawn, expected) < apart(base, expected) / 4


def test_sdxls_model_for_inpainting_draws_with_a_residual_what_sdxl_does(zoo, sd1):
    (drawn,) = draw(zoo, INPAINTING, BALL + tag("SDXL"), LAG).images
    assert apart(drawn, sd1("LAG")[0]) < 0.1


def test_sdxls_refiner_goes_on_without_the_residual_and_that_is_said(zoo):
    """After half of the steps; a residual that acted on them, too, would draw another picture."""
    refiner = {"refiner_checkpoint": REFINER, "refiner_switch_at": 0.5}
    prompt = BALL + tag("SDXL")
    result, base = draw(zoo, "SDXL", prompt, LAG, **refiner), draw(zoo, "SDXL", prompt, LAG)
    (sentence,) = told(result)
    assert sentence.startswith(
        "<persres:rex-SDXL> was not applied in the refiner's part of the first pass, only before"
    )
    assert "goes on without it" in sentence
    assert apart(result.images[0], base.images[0]) > 1
    ended = draw(zoo, "SDXL", BALL + tag("SDXL", ":1:end=0.5"), LAG, **refiner)
    assert apart(result.images[0], ended.images[0]) < 0.1
    with loaded(zoo, REFINER):
        alone = zoo.generate(BALL + tag("SDXL"), LAG, **SMALL)
    assert "goes on without it" in alone.info["extra_generation_params"]["Persres not applied"]["rex-SDXL"]


def test_the_kinds_differ(zoo, sd1):
    base = draw(zoo, "SD1", "a photo of a olis ball on grass").images[0]
    kinds = [base, *(sd1(kind)[0] for kind in ("plain", "LAG", "AND", "editing", "strength"))]
    assert all(apart(one, other) > 1 for index, one in enumerate(kinds) for other in kinds[:index])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_residual_of_another_family_is_refused_in_words_and_the_base_is_drawn(zoo, family):
    other = FAMILIES[FAMILIES.index(family) - 1]
    result = draw(zoo, family, BALL + tag(other))
    assert apart(result.images[0], draw(zoo, family, "a photo of a olis ball on grass").images[0]) < 0.01
    refused = result.info["extra_generation_params"]["Persres not applied"]
    assert refused == {f"rex-{other}": f"It was made for {other}, and the loaded model is {family}."}


SHORT = {"macro_class": "ball", "steps": 6, "batch": 2, "rank": "4", "resolution": 128, "crops": 0}


@contextlib.contextmanager
def learned(zoo, photos, family: str, name: str, **changes):
    """A residual, which is there as <persres:NAME> meanwhile: the next training has the same identifier."""
    with loaded(zoo, family):
        status = wait(zoo, submit(zoo, photos, name, **{**SHORT, **changes}))
        assert status["state"] == "finished", status
        try:
            yield Residual.load(status["file"])
        finally:
            Path(status["file"]).unlink()
            zoo.post("/persres/v1/refresh")


def ups(learned: Residual) -> torch.Tensor:
    return torch.cat([factors.up.flatten() for factors in learned.factors.values()])


@pytest.fixture(scope="module")
def by_sd1(zoo, photos):
    with learned(zoo, photos, "SD1", "by") as found:
        return found


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", OTHERS)
def test_a_family_learns_what_sd1_does(zoo, photos, by_sd1, family, checkpointing):
    with learned(zoo, photos, family, "by", checkpointing=checkpointing) as found:
        (job,) = [job for job in zoo.get(ROUTE) if job["name"] == "by" and job["state"] == "finished"][-1:]
        assert "its own layers" not in job["message"]  # the lean ones do the same
        assert found.metadata.base_family == family and found.metadata.identifier == by_sd1.metadata.identifier
        assert list(found.factors) == list(by_sd1.factors)
    likeness = torch.nn.functional.cosine_similarity(ups(found), ups(by_sd1), 0).item()
    print(f"{family}: cosine {likeness:.6f}")
    assert likeness > 0.999


@pytest.mark.parametrize("family", OTHERS)
def test_a_model_of_v_learns_by_v(zoo, photos, family, by_sd1):
    """The same errors, weighted by 1/ᾱ: another training, whose first step goes in much the same direction."""
    with learned(zoo, photos, f"{family} v", "by v") as found:
        assert found.metadata.base_family == family and torch.isfinite(ups(found)).all()
    likeness = torch.nn.functional.cosine_similarity(ups(found), ups(by_sd1), 0).item()
    print(f"{family} v: cosine {likeness:.3f}")
    assert 0.2 < likeness < 0.999


def test_sdxl_learns_a_word_in_both_text_encoders_and_draws_with_it(zoo, photos):
    def word(family):
        with learned(zoo, photos, family, "word", recipe="textual-inversion", rank=None) as found:
            drawn = draw(zoo, family, f"{BALL} <persres:word>")
            assert drawn.info["extra_generation_params"]["Persres not applied"] == {}
            own = draw(zoo, family, f"a photo of a {found.metadata.identifier} ball on grass")
            return found, drawn.images[0], own.images[0]

    (sd1, sd1_drawn, _), (sdxl, drawn, own) = word("SD1"), word("SDXL")
    identifier = sd1.metadata.identifier
    first, second = (sdxl.embeddings[f"{encoder}.{identifier}"] for encoder in ("clip_l", "clip_g"))
    assert first.ndim == second.ndim == 1 and len(sdxl.embeddings) == 2
    expected = sd1.embeddings[identifier]
    torch.testing.assert_close(first, expected, rtol=0, atol=0.01 * float(expected.abs().max()))
    assert apart(drawn, sd1_drawn) < 0.5 < apart(drawn, own)


@pytest.mark.parametrize("family", OTHERS)
def test_a_training_stops_goes_on_and_yields_to_an_image_of_another_family(zoo, photos, family):
    with loaded(zoo, family):
        identity = submit(zoo, photos, f"goes on {family}", **{**SHORT, "steps": 100_000})
        wait(zoo, identity, done=2)
        zoo.post(f"{ROUTE}/{identity}/stop")
        stopped = wait(zoo, identity)
        assert stopped["state"] == "stopped"
        zoo.post(f"{ROUTE}/{identity}/resume")
        before = wait(zoo, identity, done=stopped["done"] + 1)["done"]  # it has its checkpoint
    other = "SD1"
    image = draw(zoo, other, "a photo of a red ball on grass")  # which loads the other checkpoint in its middle
    assert image.images[0].std() > 20
    assert wait(zoo, identity, done=before + 2)["state"] == "running"
    zoo.post(f"{ROUTE}/{identity}/stop")
    status = wait(zoo, identity)
    assert status["state"] == "stopped" and Residual.load(status["file"]).metadata.base_family == family


def test_an_empty_text_is_sdxls_zeros_in_a_training_too(zoo, photos):
    """A recipe with kept rows learns against what guidance will subtract."""
    with learned(zoo, photos, "SDXL", "keeping", recipe="toybox", batch=4) as found:
        assert found.metadata.steps == SHORT["steps"] and torch.isfinite(ups(found)).all()


def test_under_medvram_sdxl_it_draws_and_learns_the_same(zoo, sd1, photos, by_sd1):
    """Last, since it takes the place of the WebUI of these tests."""
    needs_flags_for_little_memory()
    expected = sd1("LAG")[0]
    zoo.stop()
    sparing = Host(WEBUI, zoo.data, "--medvram-sdxl")
    try:
        sparing.wait()
        assert apart(KINDS["LAG"](sparing, "SDXL").images[0], expected) < 0.1
        with learned(sparing, photos, "SDXL", "by") as found:
            likeness = torch.nn.functional.cosine_similarity(ups(found), ups(by_sd1), 0).item()
        assert likeness > 0.999
        assert apart(KINDS["LAG"](sparing, "SDXL").images[0], expected) < 0.1
    finally:
        sparing.stop()
