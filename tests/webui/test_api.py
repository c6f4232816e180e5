"""What a program sees: refusals, problems, settings, files; and V* in negative prompts."""

import base64
import io
import json
import urllib.error

import numpy as np
import pytest
import standalone_models as models
from host import PLAIN, TITLE, copy_of, make_residual
from pictures import LAG, REX, near, refused, same, script
from PIL import Image

NEGATIVE = "a V* dog in the rain"


# -- refusals


def deep(levels: int):
    return [deep(levels - 1)] if levels else []


@pytest.mark.parametrize(
    "entry, words",
    [
        ({"args": [{"strength": 10**400}]}, "strength is a number of more than 60 digits"),
        ({"args": [{"strength": float("nan")}]}, "strength is 'nan'"),
        ({"args": [{"lag": deep(400)}]}, "lag is a list"),
        ({"args": [None, None, deep(400)]}, "mask is a list"),
        ({"args": [None, "true"]}, "lag is 'true'"),
        ({"args": [{"enabled": 1}]}, "enabled is '1'"),
        ({}, 'has no "args"'),
        ({"args": {"lag": True}}, "must be a list"),
        ({"args": [False] * 7}, "takes 6 values"),
        ({"args": [{}, True]}, "not both"),
        ({"args": [], "lag": True}, 'only "args" may be there'),
        ({"args": [{"laag": True}]}, "does not know laag"),
        ([True], "in alwayson_scripts is a list"),
    ],
)
@pytest.mark.parametrize("path", ["txt2img", "img2img"])
def test_what_the_webui_would_drop_is_refused(host, path, entry, words):
    status, detail = refused(host, script(entry), f"/sdapi/v1/{path}")
    assert status == 422 and words in detail


def test_null_is_the_same_as_left_out(host):
    lag = host.image(REX, LAG)
    assert same(host.image(REX, [{"enabled": None, "lag": True}]), lag)
    fields = ("enabled", "lag", "mask", "unconditional", "strength", "show_masks")
    assert same(host.image(REX, [dict.fromkeys(fields)]), host.image(REX, [{}]))
    infotext = host.generate(REX, [{"unconditional": "base", "strength": 0.5}]).infotexts[0]
    body = {"infotext": infotext, "alwayson_scripts": {TITLE: {"args": [{"strength": None, "lag": True}]}}}
    again = json.loads(host.post("/sdapi/v1/txt2img", body)["info"])["infotexts"][0]
    assert "Persres strength: 0.5" in again and "Persres unconditional: base" in again


def test_half_a_character_is_refused_where_the_webui_would_fail_at_its_answer(host):
    body = {**PLAIN, "prompt": "a \ud800 V* dog <persres:rex>"}
    status, detail = refused(host, body)
    assert status == 422 and detail.startswith("prompt has half a character")


def test_the_name_is_the_scripts_own_in_any_case(host):
    status, detail = refused(host, script({"args": [True]}, "Personalized_Residuals"))
    assert status == 422 and 'the script is called "Personalized Residuals"' in detail
    twice = script({"args": [True]})
    twice["alwayson_scripts"][TITLE.lower()] = {"args": [False]}
    assert "2 times" in refused(host, twice)[1]
    image = base64.b64decode(host.post("/sdapi/v1/txt2img", script({"args": LAG}, TITLE.upper()))["images"][0])
    assert same(np.asarray(Image.open(io.BytesIO(image)).convert("RGB")), host.image(REX, LAG))


def test_other_requests_are_as_they_were(host):
    status, detail = refused(host, {"alwayson_scripts": {"nobody": {}}})
    assert status == 422 and "not found" in detail
    with pytest.raises(urllib.error.HTTPError) as error:
        host.post("/sdapi/v1/txt2img", {"steps": "many"})
    assert error.value.code == 422 and "steps" in error.value.read().decode()


def test_a_dict_wins_over_the_infotext_of_the_request(host):
    infotext = host.generate(REX, [{"unconditional": "base", "strength": 0.9}]).infotexts[0]
    body = {"infotext": infotext, "alwayson_scripts": {TITLE: {"args": [{"strength": 0.5}]}}}
    again = json.loads(host.post("/sdapi/v1/txt2img", body)["info"])["infotexts"][0]
    assert "Persres strength: 0.5" in again and "Persres unconditional: base" in again


# -- what is told


def test_a_program_is_told_what_was_not_applied_and_why(host):
    result = host.generate("a V* dog and V2* <persres:nobody><persres:rex><persres:rex:much>", LAG)
    told = result.info["extra_generation_params"]
    assert 'There is no residual "nobody"' in told["Persres not applied"]["nobody"]
    assert list(told["Persres not applied"]) == ["nobody"] and list(told["Persres hashes"]) == ["rex"]
    problems = told["Persres problems"]
    assert [p for p in problems if p.startswith("<persres:nobody> was not applied:")]
    assert [p for p in problems if p.startswith("The tag <persres:rex:much>")]
    # the infotext names it, and gives away no folder
    assert "Persres not applied: nobody" in result.infotexts[0]
    assert "There is no residual" not in result.infotexts[0] and "problems" not in result.infotexts[0]


def test_without_a_problem_nothing_is_told(host):
    told = host.generate(REX, LAG).info["extra_generation_params"]
    assert told["Persres not applied"] == {} and "Persres problems" not in told
    assert not [key for key in host.generate("a dog").info["extra_generation_params"] if "Persres" in key]


# -- V* in negative prompts


def test_v_star_in_a_negative_prompt_is_the_images_concept(host):
    for prompt, args in ((REX, LAG), (REX, [False])):
        result = host.generate(prompt, args, negative_prompt=NEGATIVE)
        assert same(result.images[0], host.image(prompt, args, negative_prompt=NEGATIVE.replace("V*", "olis")))
        assert not near(result.images[0], host.image(prompt, args, negative_prompt=NEGATIVE.replace("V*", "phol")))
        assert f"Negative prompt: {NEGATIVE}\n" in result.infotexts[0]
    # without a tag it is a word
    words = [host.image("a dog", negative_prompt=NEGATIVE.replace("V*", word)) for word in ("V*", "olis")]
    assert not near(*words)


def test_v_star_in_a_negative_prompt_of_a_batch_is_each_images_own(host):
    prompts = [REX, "a V* cat <persres:mia>"]
    batch = host.generate("||".join(prompts), LAG, batch_size=2, negative_prompt=NEGATIVE).images
    for index, (image, word) in enumerate(zip(batch, ("olis", "phol"), strict=True)):
        negative = NEGATIVE.replace("V*", word)
        assert near(image, host.image(prompts[index], LAG, negative_prompt=negative, seed=PLAIN["seed"] + index))


def test_v_star_in_the_negative_prompt_of_the_hires_pass(host):
    hires = {"enable_hr": True, "hr_upscaler": "Latent", "denoising_strength": 0.6}
    same_word = [
        host.image(REX, LAG, **hires, hr_negative_prompt=f"a {word} dog", negative_prompt="rain")
        for word in ("V*", "olis", "phol")
    ]
    assert same(same_word[0], same_word[1]) and not same(same_word[0], same_word[2])


def test_v_star_without_a_concept_in_a_negative_prompt_is_told(host):
    told = host.generate(REX, LAG, negative_prompt="a V2* cat").info["extra_generation_params"]
    assert any("V2* stands for the second concept" in problem for problem in told["Persres problems"])


# -- settings


def test_the_default_of_lag_acts_at_once(host):
    plain, lag = host.image(REX, []), host.image(REX, LAG)
    with host.options(persres_lag="always"):
        result = host.generate(REX)
        assert same(result.images[0], lag) and "Persres LAG: auto" in result.infotexts[0]
        assert same(host.image(REX, [False]), lag) and same(host.image(REX, [{"lag": False}]), plain)
        assert same(host.image(REX.replace("rex", "rex:lag=off")), plain)
    with host.options(persres_lag="never"):
        for args in ([True], [{}], [{"mask": "median"}], []):
            assert same(host.image(REX, args), plain)
        assert same(host.image(REX, [True, True]), lag) and same(host.image(REX, [{"lag": True}]), lag)
        assert same(host.image(REX.replace("rex", "rex:lag=on")), lag)
    assert same(host.image(REX, []), plain) and same(host.image(REX, [True]), lag)


def test_another_folder_acts_at_once(host, tmp_path):
    copy_of(host.data / "models" / "persres" / "rex.safetensors", tmp_path / "elsewhere.safetensors")
    image = host.image(REX)
    with host.options(persres_dir=str(tmp_path)):
        assert [entry["name"] for entry in host.get("/persres/v1/residuals")] == ["elsewhere"]
        assert same(host.image(REX.replace("rex", "elsewhere")), image)
        left = host.generate(REX).info["extra_generation_params"]["Persres not applied"]
        assert "rex" in left
    assert same(host.image(REX), image)


def test_hashes_in_the_infotext_can_be_left_out(host):
    with host.options(persres_hashes=False):
        result = host.generate(REX, LAG)
        assert "Persres hashes" not in result.infotexts[0] and "Persres LAG: on" in result.infotexts[0]
    assert "Persres hashes" in host.generate(REX, LAG).infotexts[0]


def test_a_small_cache_changes_no_image(host):
    prompt = "a V* dog and a V2* cat <persres:rex> <persres:mia>"
    image = host.image(prompt, LAG)
    for size in (0, 1):
        with host.options(persres_cache=size):
            assert same(host.image(prompt, LAG), image)


def test_the_page_has_the_section(host):
    components = {c["props"].get("elem_id"): c["props"] for c in host.get("/config")["components"]}
    labels = [components[f"setting_persres_{key}"]["label"] for key in ("dir", "lag", "cache", "hashes")]
    assert labels[:2] == ["Folder of the residuals", "LAG by default"] and all(labels)
    assert components["settings_persres"]["label"] == "Personalized Residuals"


@pytest.mark.parametrize(
    "options", [{"persres_lag": "x"}, {"persres_cache": -1}, {"persres_dir": "no folder"}, {"persres_hashes": 3}]
)
def test_bad_settings_are_refused(host, options):
    (key,) = options
    before = host.get("/sdapi/v1/options")[key]
    for path, body in (("options", options), ("txt2img", {**PLAIN, "prompt": REX, "override_settings": options})):
        status, detail = refused(host, body, f"/sdapi/v1/{path}")
        assert status == 422 and f"The setting {key} is" in detail and "allowed is" in detail
    assert host.get("/sdapi/v1/options")[key] == before


# -- files


def test_png_info_finds_a_renamed_file_by_its_hash(host):
    folder = host.data / "models" / "persres"
    make_residual(host.data, "before", models.tiny_unet(), 7, "olis", "dog")
    prompt = "a V* dog <persres:before:0.8:lag=on>"
    answer = host.post("/sdapi/v1/txt2img", {**PLAIN, "prompt": prompt})
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))).convert("RGB"))
    (folder / "before.safetensors").rename(folder / "after.safetensors")
    try:
        read = host.post("/sdapi/v1/png-info", {"image": answer["images"][0]})
        assert read["parameters"]["Prompt"] == "a V* dog <persres:after:0.8:lag=on>"
        assert "<persres:before:0.8" in read["info"]  # the file itself says what was typed
        assert same(host.image(read["parameters"]["Prompt"]), image)
    finally:
        (folder / "after.safetensors").unlink()


def test_overlays_of_masks_are_saved_like_other_extras(host):
    pattern = "output*/txt2img-images/**/*.*"
    before = set(host.data.glob(pattern))
    result = host.generate(REX, [{"show_masks": True}], batch_size=2, save_images=True)
    new = sorted(set(host.data.glob(pattern)) - before)
    overlays = [path for path in new if path.stem.endswith("-persres-masks")]
    assert len(new) == 4 and len(overlays) == 2
    saved = [np.asarray(Image.open(path).convert("RGB")) for path in overlays]
    for overlay in result.images[-2:]:
        assert any(same(overlay, image) for image in saved)
    assert "Persres show masks: True" in Image.open(overlays[0]).info["parameters"]
    before |= set(new)
    host.generate(REX, [{"show_masks": True}])
    assert set(host.data.glob(pattern)) == before  # the WebUI was not asked to save
