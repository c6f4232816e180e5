"""The axes of the X/Y/Z plot: a cell is the single image with its settings."""

import json
import urllib.error

import pytest
from host import PLAIN, body_of
from pictures import LAG, REX, near, same
from plots import cells, plot

VALUES = {"[Persres] Residual": ["rex", "mia"], "[Persres] Mask": ["fitted", "median"], "[Persres] LAG": ["on", "off"]}


def test_the_tags_residual_and_strength(host):
    x, y = ("[Persres] Residual", ["rex", "mia"]), ("[Persres] Strength", "0, 0.5")
    images, infotexts, _ = cells(host, "a V* dog <persres:rex:0.9:lag=on>", x, y)
    assert len(images) == 4
    for index, (image, infotext) in enumerate(zip(images, infotexts, strict=True)):
        prompt = f"a V* dog <persres:{('rex', 'mia')[index % 2]}:{('0', '0.5')[index // 2]}:lag=on>"
        assert same(image, host.image(prompt)) and infotext.startswith(prompt)
    assert not near(images[2], images[3])


@pytest.mark.parametrize("args", [None, LAG])
def test_without_a_tag_one_is_added_whatever_the_order_of_the_axes(host, args):
    strength, residual = ("[Persres] Strength", "0.5-1 (+0.5)"), ("[Persres] Residual", ["mia"])
    for x, y in ((strength, residual), (residual, strength)):
        images, infotexts, _ = cells(host, "a V* cat", x, y, args)
        for image, infotext, number in zip(images, infotexts, ("0.5", "1"), strict=True):
            prompt = f"a V* cat <persres:mia:{number}>"
            assert same(image, host.image(prompt, args)) and infotext.startswith(prompt)


def test_lag_on_and_off(host):
    on, off = host.image(REX, LAG), host.image(REX)
    for prompt in (REX, REX.replace("rex", "rex:lag=on"), REX.replace("rex", "rex:lag=off")):
        for args in (None, [{"lag": False}]):
            images, infotexts, _ = cells(host, prompt, ("[Persres] LAG", ["on", "off"]), args=args)
            assert same(images[0], on) and same(images[1], off)
            assert "Persres LAG: on" in infotexts[0] and "Persres LAG: off" in infotexts[1]


def test_masks(host):
    for args in (None, LAG, [{"lag": False}]):
        images, infotexts, _ = cells(host, REX, ("[Persres] Mask", ["fitted", "median"]), args=args)
        for image, infotext, mask in zip(images, infotexts, ("fitted", "median"), strict=True):
            assert same(image, host.image(REX, [{"lag": True, "mask": mask}]))
            assert f"Persres mask: {mask}" in infotext
        assert not near(*images)
    images, _, _ = cells(host, REX, ("[Persres] Mask", ["fitted"]), ("[Persres] LAG", ["off", "on"]))
    assert same(images[0], host.image(REX)) and same(images[1], host.image(REX, LAG))


def test_values_as_text(host):
    images, _, _ = cells(host, REX, ("[Persres] Residual", ["mia", "rex"]), ("[Persres] LAG", ["ON"]), csv=True)
    assert same(images[0], host.image(REX.replace("rex", "mia"), LAG)) and same(images[1], host.image(REX, LAG))


def test_the_hires_prompt_takes_the_same_values(host):
    hires = {"enable_hr": True, "hr_upscaler": "Latent", "denoising_strength": 0.6}
    for prompt, hr_prompt, name in (
        (REX, "", "mia"),
        (REX, "a V* dog <persres:rex:0.7>", "mia"),
        (REX, "a dog", "mia"),
        ("a V* cat", "a white V* cat", "mia"),
    ):
        images, _, _ = cells(host, prompt, ("[Persres] Residual", [name]), **hires, hr_prompt=hr_prompt)
        tag = f" <persres:{name}>"
        want = [text.replace("rex", name) if "<" in text else text + tag for text in (prompt, hr_prompt)]
        want[1] = "" if not hr_prompt else hr_prompt if hr_prompt == "a dog" else want[1]
        assert same(images[0], host.image(want[0], hr_prompt=want[1], **hires))


def test_the_tag_may_come_from_a_style(host):
    style = {"styles": ["mine"]}
    assert same(host.image("a V* dog", **style), host.image("a V* dog <persres:rex:0.45>"))
    images, _, _ = cells(host, "a V* dog", ("[Persres] Residual", ["mia"]), ("[Persres] Strength", "0.5"), **style)
    assert same(images[0], host.image("a V* dog <persres:mia:0.5>"))


def test_an_axis_without_anything_to_act_on_is_told(host):
    _, _, info = cells(host, "a dog", ("[Persres] Strength", "1"))
    assert any("no tag such as <persres:name>" in text for text in info["extra_generation_params"]["Persres problems"])


def test_the_next_image_knows_nothing_of_the_plot(host):
    before = host.image(REX)
    cells(host, REX, ("[Persres] Residual", ["mia"]), ("[Persres] LAG", ["on"]))
    assert same(host.image(REX), before) and host.get("/probe/hooks") == []


@pytest.mark.parametrize(
    "x, words",
    [
        (("[Persres] Residual", ["rex", "nobody"]), 'There is no residual "nobody"'),
        (("[Persres] Residual", ["rex:2"]), "'rex:2' cannot stand in a tag"),
        (("[Persres] Strength", "0.5, strong"), "'strong' is not a number or a range"),
        (("[Persres] Strength", "1000"), "strength is '1000.0'; allowed is a number from -100 to 100"),
        (("[Persres] LAG", ["on", "maybe"]), "'maybe' is none of on, off, auto"),
        (("[Persres] Mask", ["mean"]), "mask is 'mean'; allowed is 'fitted' or 'median'"),
        (("[Persres] Mask", []), "has no values"),
    ],
)
def test_bad_values_are_refused_before_anything_is_drawn(host, x, words):
    log = len(host.log.read_text())
    with pytest.raises(urllib.error.HTTPError) as error:
        host.post("/sdapi/v1/txt2img", {**body_of(REX, None, {}), **PLAIN, **plot(host, x)})
    detail = json.loads(error.value.read())["detail"]
    assert error.value.code == 422 and words in detail and detail.startswith(f"The axis {x[0]}")
    assert "X/Y/Z plot will create" not in host.log.read_text()[log:]
