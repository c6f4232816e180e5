"""Residuals and LAG in the WebUI's own generations, by its API."""

import base64
import io
import json

import numpy as np
import pytest
import standalone_models as models
from checkout import NEO, ROUNDING
from host import PLAIN, Result, body_of, copy_of, make_residual
from pictures import HIRES, LAG, REX, near, same
from PIL import Image
from requests_without import REQUESTS

# -- nothing changes that should not


@pytest.mark.parametrize("name", REQUESTS)
def test_installed_but_unused_images_are_those_without_the_extension(host, reference, name):
    for mine, theirs in zip(host.generate(**REQUESTS[name]).images, reference[name], strict=True):
        assert same(mine, theirs)


def test_the_accordion_alone_changes_nothing(host, reference):
    result = host.generate("a photo of a dog", LAG)
    assert same(result.images[0], reference["plain"][0])
    assert "Persres" not in result.infotexts[0]


def test_strength_zero_is_the_base_model(host):
    base = host.image("a photo of a olis dog")
    for prompt, args in (
        ("a photo of a V* dog <persres:rex:0>", None),
        ("a photo of a V* dog <persres:rex:0>", LAG),
        (REX, [{"lag": False, "strength": 0}]),
    ):
        assert same(host.image(prompt, args), base)


def test_a_residual_and_lag_change_the_image(host):
    base, plain, lag = host.image("a photo of a olis dog"), host.image(REX), host.image(REX, LAG)
    assert not near(base, plain) and not near(plain, lag) and not near(base, lag)
    assert same(plain, host.image(REX, [False])) and same(plain, host.image(REX, []))
    assert same(plain, host.image(REX, [None])) and same(lag, host.image(REX, [True]))
    assert same(plain, host.image(REX, [{"lag": False}]))
    assert same(lag, host.image("a photo of a V* dog <persres:rex:lag=on>"))
    assert same(plain, host.image("a photo of a V* dog <persres:rex:lag=off>", LAG))
    assert not near(lag, host.image(REX, [{"unconditional": "base"}]))
    assert not near(plain, host.image("a photo of a V* dog <persres:rex:0.5>"))
    assert same(host.image(REX, [{"lag": False, "strength": 0.5}]), host.image(REX.replace("rex", "rex:0.5")))


def test_the_next_plain_image_is_the_base_models(host, reference):
    host.image(REX, LAG)
    assert same(host.image("a photo of a dog"), reference["plain"][0])
    assert host.get("/probe/hooks") == []


# -- which row is whose


CASES = {
    "plain": (REX, [False], 1),
    "LAG": (REX, LAG, 1),
    "LAG, base": (REX, [{"unconditional": "base"}], 1),
    "two concepts": ("a V* dog and a V2* cat <persres:rex> <persres:mia:0.7>", LAG, 1),
    "AND, the concept in one part": ("a V* dog AND a house :0.6 <persres:rex>", LAG, 1),
    "AND, the concept in the second part": ("a house AND a V* dog AND grass <persres:rex>", LAG, 1),
    "batch": (REX, LAG, 2),
    "batch and AND": ("a V* dog AND a house <persres:rex>", LAG, 2),
    "schedule": ("a [V* dog:cat:0.5] <persres:rex>", LAG, 1),
    "alternation": ("a [V* dog|cat] <persres:rex>", LAG, 1),
    "emphasis": ("a (V* dog:1.3) <persres:rex>", LAG, 1),
    "second chunk": ("a house " * 45 + "BREAK a V* dog <persres:rex>", LAG, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_conds_and_unconds_apart_are_the_same_image(host, name):
    prompt, args, count = CASES[name]
    together = host.generate(prompt, args, batch_size=count).images
    with host.split():
        host.post("/probe/watch")
        apart = host.generate(prompt, args, batch_size=count).images
        rows = host.post("/probe/calls")
    assert max(rows) == count
    for a, b in zip(together, apart, strict=True):
        assert near(a, b, ROUNDING), np.abs(a.astype(int) - b.astype(int)).max()
    assert not near(together[-1], host.generate(prompt, [{"strength": 0}], batch_size=count).images[-1])


PARTS = {
    "in the first part": "a V* dog AND a house :0.7 <persres:rex>",
    "in the last part": "a house AND grass AND a V* dog <persres:rex>",
    "two concepts, one in each part": "a V1* dog AND a V2* cat <persres:rex><persres:mia>",
    "only later": "a house AND a [cat:V* dog:0.4] <persres:rex>",
    "in the last part, longer than the negative prompt": "a house AND " + "house " * 80 + "V* dog <persres:rex>",
}


@pytest.mark.parametrize("unconditional", ["mirror", "base"])
@pytest.mark.parametrize("name", PARTS)
def test_with_masks_of_ones_lag_is_plain_sampling_for_parts_without_the_concept(host, name, unconditional):
    settings, more = {"unconditional": unconditional}, {"steps": 6} if name == "only later" else {}
    for together in (True, False):
        with host.split(not together):
            plain = host.image(PARTS[name], [{"lag": False, **settings}], **more)
            lag, off = (host.image(PARTS[name], [given], **more) for given in (settings, {"strength": 0}))
            host.post("/probe/ones/1")
            try:
                ones = host.image(PARTS[name], [settings], **more)
            finally:
                host.post("/probe/ones/0")
        if name != "only later":  # where no text has the concept yet, LAG leaves it out
            assert near(ones, plain, ROUNDING)
        # to the bit: the last steps change little
        assert not same(lag, plain) and not same(lag, off)


def test_a_batch_is_its_images_one_by_one(host):
    def apart(prompt, args):
        """How many grey levels the images of a batch are from those made singly, at most."""
        batch = host.generate(prompt, args, batch_size=4).images[-4:]
        singles = [host.image(prompt, args, seed=PLAIN["seed"] + index) for index in range(4)]
        return max(np.abs(a.astype(int) - b.astype(int)).max() for a, b in zip(batch, singles, strict=True))

    # no more than the WebUI's own, but for a rounding
    assert apart(REX, LAG) <= apart("a photo of a olis dog", None) + 1


def test_each_image_follows_its_own_prompts_tags(host):
    prompts = ["a house", REX, "a V* cat <persres:mia:0.8>", "a V* cat and a V2* dog <persres:mia><persres:rex:0.5>"]
    for args in ([False], LAG):
        batch = host.generate("||".join(prompts), args, batch_size=4)
        for index, (image, prompt) in enumerate(zip(batch.images, prompts, strict=True)):
            assert near(image, host.image(prompt, args, seed=PLAIN["seed"] + index), ROUNDING)


def test_lag_does_not_act_where_the_prompt_does_not_name_the_concept(host):
    # the concept's part of the schedule never comes
    never = host.image("a [cat:V* dog:0.99] <persres:rex>", LAG, steps=3)
    assert near(never, host.image("a [cat:olis dog:0.99]", steps=3))
    # start and end
    assert same(host.image("a V* dog <persres:rex:start=0.99>"), host.image("a olis dog"))
    until_half = host.image("a V* dog <persres:rex:end=0.5>")
    assert not same(until_half, host.image("a V* dog <persres:rex>"))
    assert not same(until_half, host.image("a olis dog"))


def test_guidance_that_skips_the_unconditional_rows_works(host):
    with host.options(skip_early_cond=0.5):
        assert not near(host.image(REX, LAG), host.image("a photo of a olis dog"))
    assert not near(host.image(REX, LAG, s_min_uncond=4.0), host.image("a photo of a olis dog", s_min_uncond=4.0))


@pytest.mark.parametrize("option", ["pad_cond_uncond", "pad_cond_uncond_v0"])
def test_padding_leaves_the_concept_where_it_is(host, option):
    prompt, negative = "a house " * 45 + "BREAK a V* dog <persres:rex>", "bad"
    plain = host.image(prompt, LAG, negative_prompt=negative)
    with host.options(**{option: True}):
        padded = host.image(prompt, LAG, negative_prompt=negative)
        base = host.image(prompt, [{"strength": 0}], negative_prompt=negative)
    assert plain.shape == padded.shape and not near(padded, base)


@pytest.mark.parametrize("option", ["pad_cond_uncond", "pad_cond_uncond_v0"])
@pytest.mark.parametrize("negative", ["bad", "bad " * 80])
def test_padding_changes_lag_only_where_it_changes_the_webui(host, option, negative):
    for prompt in ("a V* dog", "a house " * 45 + "BREAK a V* dog"):
        base, lag = prompt.replace("V*", "olis"), f"{prompt} <persres:rex>"
        before = [host.image(text, LAG, negative_prompt=negative) for text in (base, lag)]
        with host.options(**{option: True}):
            after = [host.image(text, LAG, negative_prompt=negative) for text in (base, lag)]
        assert near(before[1], after[1]) or not near(before[0], after[0])


def test_hires_has_its_own_strength(host):
    hires = {"enable_hr": True, "hr_upscaler": "Latent", "denoising_strength": 0.6, "steps": 8}
    base = host.image("a olis dog", **hires)
    first_only = host.image("a V* dog <persres:rex:hr=0>", LAG, **hires)
    both = host.image("a V* dog <persres:rex>", LAG, **hires)
    only_second = host.image("a V* dog <persres:rex:0:hr=1>", LAG, **hires)
    own_prompt = host.image("a olis dog", LAG, **hires, hr_prompt="a V* dog <persres:rex>")
    assert base.shape == (128, 128, 3)
    assert not near(base, first_only) and not near(first_only, both) and not near(base, only_second)
    assert near(only_second, own_prompt)
    assert host.get("/probe/hooks") == []


@pytest.mark.parametrize("size", [(64, 128), (72, 64)])
def test_other_sizes(host, size):
    width, height = size
    if NEO and width % 64:
        pytest.skip("This host rounds a picture's sides to 64.")
    image = host.image(REX, LAG, width=width, height=height)
    assert image.shape == (height, width, 3)
    assert not near(image, host.image("a photo of a olis dog", width=width, height=height))


@pytest.mark.parametrize("sampler", ["Heun", "DPM++ SDE", "DDIM", "PLMS", "UniPC", "LCM", "Restart"])
def test_samplers(host, sampler):
    images = [host.image(prompt, LAG, sampler_name=sampler) for prompt in (REX, "a photo of a olis dog")]
    assert not near(*images)


# -- masks


def test_masks_are_shown(host):
    result = host.generate(REX, [{"show_masks": True}], batch_size=2)
    assert len(result.images) == len(result.infotexts) == 4  # two images, two overlays
    for picture, overlay in zip(result.images[:2], result.images[2:]):
        assert overlay.shape == picture.shape and not near(overlay, picture)
        # the less of the concept is in a pixel, the greyer it is
        spread = np.ptp(overlay.astype(int), axis=-1)
        assert spread.max() > spread.min() + 20
    assert not near(result.images[2], result.images[3])
    assert len(host.generate(REX, [{"lag": False, "show_masks": True}]).images) == 1


# -- what goes wrong


@pytest.mark.parametrize("calls", [1, 3])
def test_after_an_exception_in_mid_sampling_nothing_is_left(host, reference, calls):
    host.post(f"/probe/break/raise/{calls}")
    with pytest.raises(RuntimeError, match="broken by the test"):
        host.image(REX, LAG)
    assert host.get("/probe/broken")  # it broke with our hooks in place
    assert host.get("/probe/hooks") == []
    assert same(host.image("a photo of a dog"), reference["plain"][0])


@pytest.mark.parametrize("how", ["interrupt", "skip"])
def test_after_an_interrupted_generation_nothing_is_left(host, reference, how):
    host.post(f"/probe/break/{how}/2")
    host.generate(REX, LAG)
    assert host.get("/probe/broken") and host.get("/probe/hooks") == []
    assert same(host.image("a photo of a dog"), reference["plain"][0])


def test_a_missing_residual_is_told_and_the_image_is_made(host):
    result = host.generate("a photo of a V* dog <persres:nobody>")
    assert same(result.images[0], host.image("a photo of a  dog"))
    assert "Persres not applied: nobody" in result.infotexts[0] and "Persres hashes" not in result.infotexts[0]
    assert 'There is no residual "nobody"' in host.log.read_text()


def test_a_broken_and_a_foreign_file_are_told(host):
    folder = host.data / "models" / "persres"
    (folder / "broken.safetensors").write_bytes(b"nothing")
    result = host.generate("a V* dog and a V2* dog <persres:broken><persres:rex>")
    assert near(result.images[0], host.image("a  dog and a V* dog <persres:rex>"))
    assert "Persres not applied: broken" in result.infotexts[0] and 'Persres hashes: "rex: ' in result.infotexts[0]


def test_a_residual_for_another_model_is_told(host):
    make_residual(host.data, "other", models.tiny_unet(model_channels=64), 3, "hta", "dog")
    result = host.generate("a V* dog <persres:other>")
    assert same(result.images[0], host.image("a hta dog"))
    assert "Persres not applied: other" in result.infotexts[0]
    assert "trained for another model" in host.log.read_text()


@pytest.mark.parametrize("tag", ["<persres:rex:much>", "<persres:rex:1:lag=maybe>", "<persres:rex:1:strenght=2>"])
def test_a_tag_that_is_not_understood_is_told(host, tag):
    result = host.generate(f"a dog {tag}")
    assert same(result.images[0], host.image("a dog"))
    assert f"The tag {tag}" in host.log.read_text()


@pytest.mark.parametrize(
    "args, words",
    [
        ([{"laag": True}], "does not know laag"),
        ([{"lag": "yes"}], "lag is 'yes'"),
        ([{"mask": "mean"}], "mask is 'mean'"),
        ([{"strength": "1"}], "strength is '1'"),
        ([True, True, "median", "nowhere"], "unconditional is 'nowhere'"),
        (["true"], "enabled is 'true'"),
        ([{"lag": True}, False], "not both"),
    ],
)
def test_settings_that_are_not_understood_are_refused(host, args, words):
    status, answer = host.refusal(args)
    assert status == 422 and words in answer["detail"]
    # and the refusal is over with its own request
    assert host.image("a photo of a dog").shape == (64, 64, 3)


# -- files and infotext


def test_files_are_found_by_name_alias_and_folder_and_read_again(host):
    folder = host.data / "models" / "persres"
    rex, mia = host.image(REX), host.image(REX.replace("rex", "mia"))
    assert not near(rex, mia)
    assert same(rex, host.image(REX.replace("rex", "rex's own name")))
    new = copy_of(folder / "rex.safetensors", folder / "deep" / "down" / "later.safetensors")
    assert same(rex, host.image(REX.replace("rex", "later")))  # it came after the folder was read
    copy_of(folder / "mia.safetensors", new)
    assert same(mia, host.image(REX.replace("rex", "later")))  # it changed
    copy_of(folder / "rex.safetensors", folder / "later.safetensors")
    result = host.generate(REX.replace("rex", "deep/down/later"))
    assert same(mia, result.images[0]) and "deep/down/later: " in result.infotexts[0]
    assert host.post("/persres/v1/refresh")["residuals"] >= 4
    assert same(rex, host.image(REX.replace("rex", "later")))  # the one at the top


def test_residuals_are_listed(host):
    entries = {entry["name"]: entry for entry in host.get("/persres/v1/residuals")}
    assert entries["rex"]["metadata"]["identifier"] == "olis" and len(entries["rex"]["hash"]) == 64


def test_the_infotext_keeps_what_the_user_typed_and_brings_it_back(host):
    prompt = "a photo of a V* dog <persres:rex:0.8>"
    args = [{"lag": True, "unconditional": "base", "strength": 0.9}]
    result = host.generate(prompt, args)
    infotext = result.infotexts[0]
    assert infotext.startswith(prompt) and "olis" not in infotext
    for part in ("Persres LAG: on", "Persres mask: fitted", "Persres unconditional: base", "Persres strength: 0.9"):
        assert part in infotext
    again = host.post("/sdapi/v1/txt2img", {"infotext": infotext})
    assert same(Result(again).images[0], result.images[0])


def test_img2img(host):
    buffer = io.BytesIO()
    Image.fromarray(host.image("a house")).save(buffer, "PNG")
    start = {"init_images": [base64.b64encode(buffer.getvalue()).decode()], "denoising_strength": 0.9}
    images = []
    for prompt, args in ((REX, LAG), (REX, None), ("a photo of a olis dog", None)):
        images += Result(host.post("/sdapi/v1/img2img", {**body_of(prompt, args, {}), **start})).images
    assert len(images) == 3 and not any(near(a, b) for a, b in ((images[0], images[1]), (images[1], images[2])))
    assert host.get("/probe/hooks") == []


def test_after_reload_ui_it_works_and_nothing_is_left(host, reference):
    lag = host.image(REX, LAG)
    for _ in range(3):
        host.post("/probe/reload")
        host.wait()
    assert host.get("/probe/hooks") == []
    assert same(host.image("a photo of a dog"), reference["plain"][0])
    assert same(host.image(REX, LAG), lag)


# -- LAG auto, and concepts of the same words


def test_auto_is_on_and_off_where_the_prompt_lends_the_look(host):
    own, lent = "a photo of a V* dog", "a house in the style of V*"
    for prompt, as_if, said in (
        (own, "on", 'Persres LAG auto: "rex: on"'),
        (lent, "off", 'Persres LAG auto: "rex: off, \\"in the style of V*\\""'),
    ):
        for tag, args in (
            ("<persres:rex>", [{"lag": "auto"}]),
            ("<persres:rex:lag=auto>", None),
            ("<persres:rex>", [{}]),
        ):
            result = host.generate(prompt + tag, args)
            assert same(result.images[0], host.image(f"{prompt}<persres:rex:lag={as_if}>"))
            assert said in result.infotexts[0]
        told = result.info["extra_generation_params"].get("Persres problems", [])
        assert any("LAG auto leaves it everywhere" in sentence for sentence in told) == (as_if == "off")
    again = host.post("/sdapi/v1/txt2img", {"infotext": host.generate(own + "<persres:rex>", [{}]).infotexts[0]})
    assert "Persres LAG: auto" in json.loads(again["info"])["infotexts"][0]
    assert "LAG auto" not in host.generate(own + "<persres:rex>", LAG).infotexts[0]


def test_in_a_batch_auto_decides_for_each_image(host):
    own, lent = "a V* dog <persres:rex>", "a house in the style of V* <persres:mia>"
    result = host.generate(f"{own}||{lent}", [{"lag": "auto"}], batch_size=2)
    first, second = result.infotexts[-2:]
    assert 'LAG auto: "rex: on"' in first and 'LAG auto: "mia: off' in second
    result = host.generate(f"{own}||{lent.replace('mia', 'rex')}", [{"lag": "auto"}], batch_size=2)
    first, second = result.infotexts[-2:]
    assert 'LAG auto: "rex: on"' in first and 'LAG auto: "rex: off, ' in second


def test_where_the_passes_decide_otherwise_both_are_said(host):
    prompts = {"prompt": "a house in the style of V* <persres:rex>", "hr_prompt": "a V* dog <persres:rex>"}
    result = host.generate(prompts["prompt"], [{"lag": "auto"}], hr_prompt=prompts["hr_prompt"], **HIRES)
    assert 'Persres LAG auto: "rex: off, \\"in the style of V*\\"; hires: on"' in result.infotexts[0]


def test_a_script_that_makes_a_grid_gets_the_pictures_that_it_asked_for(host):
    arguments = [False, False, "positive", "comma", 0]
    body = {"script_name": "prompt matrix", "script_args": arguments}
    result = host.generate(f"{REX}|in snow", [{"lag": True, "show_masks": True}], **body)
    assert len(result.images) == 3  # the grid and two
    again = host.generate(f"{REX}|in snow", [{"lag": True}], **body)
    assert all(same(one, other) for one, other in zip(result.images, again.images, strict=True))


def test_twins_are_told_apart_by_their_places(host, folder):
    make_residual(host.data, "tom", models.tiny_unet(), 3, "olis", "dog")
    host.post("/persres/v1/refresh")
    both = "a V1* dog and a V2* dog <persres:rex><persres:tom>"
    typed = "a olis dog and a olis dog <persres:rex><persres:tom>"
    assert same(host.image(both), host.image(typed))  # plain: the texts are the same, and both act everywhere
    lag = host.generate(both, LAG)
    assert "Persres problems" not in lag.info["extra_generation_params"]
    assert not near(lag.images[0], host.image(both))
    assert not near(lag.images[0], host.image("a V2* dog and a V1* dog <persres:rex><persres:tom>", LAG))
    assert same(host.image(both + "<persres:mia:0>", LAG), lag.images[0])
    assert host.get("/probe/hooks") == []
