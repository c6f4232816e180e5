"""LoRA files by our tag: plain they draw what the WebUI's own `<lora:...>` draws, under LAG they are confined."""

import html
import json
import shutil
import urllib.error
import urllib.parse

import pytest
import standalone_models as models
import torch
from host import make_residual
from pictures import LAG, near, same, told
from safetensors.torch import save_file

from lib_persres.residual import Residual
from lib_persres.unet import find_targets

RULES = {"looks": "attn1+attn2", "reader": "attn2", "places": "proj_in+attn1+attn2+proj_out", "whole": "unet"}
DOG = "a photo of a dog on a beach"
READER = "reader"
"""A file that changes the text encoder as well."""


@pytest.fixture(scope="module", autouse=True)
def files(host):
    """A LoRA of each rule in the WebUI's Lora folder, of alpha 2 and rank 4."""
    unet = models.tiny_unet()
    kernels = {target.path: tuple(getattr(target.module, "kernel_size", ())) for target in find_targets(unet, "unet")}
    made = []
    for seed, (name, rule) in enumerate(RULES.items()):
        path = make_residual(host.data, f"made-{name}", unet, seed, "olis", "dog", targets=rule)
        tensors = {}
        for target, factors in Residual.load(path).factors.items():
            key, kernel = "lora_unet_" + target.replace(".", "_"), kernels[target]
            down = factors.down.unflatten(1, (-1, *kernel)) if kernel else factors.down
            up = factors.up[..., None, None] if kernel else factors.up
            tensors |= {f"{key}.lora_down.weight": 0.5 * down, f"{key}.lora_up.weight": up}
            tensors[f"{key}.alpha"] = torch.tensor(2.0)
        path.unlink()
        made.append(host.data / "models" / "Lora" / f"{name}.safetensors")
        if name == READER:
            tensors |= text_tensors(seed)
        facts = {"ss_tag_frequency": '{"5_dog": {"dog": 3}}'} if name == "places" else None
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, made[-1], facts)
    host.post("/sdapi/v1/refresh-loras")
    host.post("/persres/v1/refresh")
    yield
    for path in made:
        path.unlink()


def text_tensors(seed: int) -> dict[str, torch.Tensor]:
    """For each layer of the tiny model's text encoder."""
    generator = torch.Generator().manual_seed(seed)
    width, wider = models.TEXT["hidden_size"], models.TEXT["intermediate_size"]
    sides = {f"self_attn_{side}_proj": (width, width) for side in ("q", "k", "v", "out")}
    tensors = {}
    for layer, (own, other) in {**sides, "mlp_fc1": (width, wider), "mlp_fc2": (wider, width)}.items():
        key = f"lora_te_text_model_encoder_layers_0_{layer}"
        tensors[f"{key}.lora_down.weight"] = torch.randn(2, own, generator=generator)
        tensors[f"{key}.lora_up.weight"] = 0.2 * torch.randn(other, 2, generator=generator)
    return tensors


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("options", [{}, {"batch_size": 2, "negative_prompt": "bad " * 80}])
def test_plain_it_draws_what_the_webui_draws_with_it(host, name, options):
    base = host.generate(DOG, **options).images[-1]
    for ours in (f"<persres:{name}:0.7>", f"<persres:lora/{name}:0.7>", f"<persres:{name}:0.7:word=dog:lag=off>"):
        mine = host.generate(DOG + ours, **options).images[-1]
        theirs = host.generate(f"{DOG}<lora:{name}:0.7>", **options).images[-1]
        assert near(mine, theirs) and not near(mine, base)
    assert host.get("/probe/hooks") == []


def test_beside_the_webuis_own_use_of_it_both_act_once(host):
    both = host.image(f"{DOG}<persres:looks:0.3><lora:looks:0.4>")
    assert near(both, host.image(f"{DOG}<lora:looks:0.7>"))
    assert same(host.image(f"{DOG}<lora:looks:0.4>"), host.image(f"{DOG}<lora:looks:0.4>"))


@pytest.mark.parametrize("name", RULES)
def test_lag_confines_it_to_its_word(host, name):
    more = {"steps": 8}
    plain, base = host.image(f"{DOG}<persres:{name}:6>", **more), host.image(DOG, **more)
    lag = host.generate(f"{DOG}<persres:{name}:6:word=dog>", [{"lag": True, "show_masks": True}], **more)
    assert len(lag.images) == 2 and len(told(lag)) == (name == READER)
    assert not same(lag.images[0], plain) and not near(lag.images[0], base)
    assert not same(host.image(f"{DOG}<persres:{name}:6:word=beach>", LAG, **more), lag.images[0])
    assert host.get("/probe/hooks") == []


def test_its_trigger_is_its_word_and_without_one_it_is_told(host):
    assert same(host.image(f"{DOG}<persres:places>", LAG), host.image(f"{DOG}<persres:places:word=dog>", LAG))
    result = host.generate(f"{DOG}<persres:looks>", LAG)
    assert "write its word in the tag, as word=dog" in str(told(result))
    assert same(result.images[0], host.image(f"{DOG}<persres:looks>"))


def test_two_of_them_and_a_residual_share_a_picture(host):
    prompt = "a V* dog, a cat and a house <persres:rex><persres:looks:word=cat><persres:places:word=house>"
    result = host.generate(prompt, LAG)
    assert told(result) == []
    assert not near(result.images[0], host.image(prompt))


def test_its_infotext_brings_it_back(host):
    result = host.generate(f"{DOG}<persres:looks:0.6:word=dog>", LAG)
    assert 'Persres hashes: "looks: ' in result.infotexts[0]
    again = host.post("/sdapi/v1/txt2img", {"infotext": result.infotexts[0]})
    assert len(again["images"]) == 1 and "word=dog" in again["info"]


def test_what_it_changes_of_the_text_encoder_acts_on_its_own_image_alone(host):
    """Another image of the batch has the same words, and is drawn as ever."""
    batch = host.generate(f"{DOG}||{DOG}<persres:reader:0.7>||{DOG}<persres:reader:0.3:text=off>", batch_size=3)
    texts = [host.image(f"{DOG}{tag}", seed=5 + place) for place, tag in enumerate(("", "<lora:reader:0.7>"))]
    for image, expected in zip(batch.images[-3:], texts):
        assert near(image, expected)
    off = host.image(f"{DOG}<persres:reader:0.3:text=off>", seed=7)
    assert near(batch.images[-1], off) and not near(off, host.image(f"{DOG}<persres:reader:0.3>", seed=7))
    assert same(host.image(DOG), host.image(DOG)) and host.get("/probe/hooks") == []


@pytest.mark.parametrize(
    "text",
    ["a [dog:cat:0.5] on (a beach:1.2)", "a dog AND a beach :0.6", "a dog BREAK on a beach", "dog, " * 60],
    ids=["editing", "AND", "BREAK", "long"],
)
def test_it_does_so_in_every_kind_of_prompt(host, text):
    mine = host.image(f"{text}<persres:reader:0.7>", negative_prompt="a cat")
    assert near(mine, host.image(f"{text}<lora:reader:0.7>", negative_prompt="a cat"))
    assert not near(mine, host.image(f"{text}<persres:reader:0.7:text=off>", negative_prompt="a cat"))


def test_lag_leaves_the_text_encoder_as_it_is_unless_the_tag_says_otherwise(host):
    lag = host.generate(f"{DOG}<persres:reader:0.7:word=dog>", LAG)
    assert ["text=on in the tag keeps it" in sentence for sentence in told(lag)] == [True]
    kept = host.generate(f"{DOG}<persres:reader:0.7:word=dog:text=on>", LAG)
    assert told(kept) == [] and not near(kept.images[0], lag.images[0])
    assert "persrestext" not in str(kept.info) + str(kept.infotexts)


def test_it_acts_in_the_hires_pass_as_strongly_as_its_tag_says(host):
    hires = {"enable_hr": True, "hr_upscaler": "Latent", "denoising_strength": 0.6}
    mine = host.image(f"{DOG}<persres:reader:0.7>", **hires)
    assert near(mine, host.image(f"{DOG}<lora:reader:0.7>", **hires))
    assert not near(mine, host.image(f"{DOG}<persres:reader:0.7:hr=9>", **hires))
    assert host.get("/probe/hooks") == []


def clicked(host, name):
    """What a click on the card knows; None where there is no card."""
    query = urllib.parse.urlencode({"page": "residuals", "tabname": "txt2img", "name": name})
    try:
        page = host.get(f"/sd_extra_networks/get-single-card?{query}")["html"]
    except urllib.error.HTTPError:
        return None
    call = html.unescape(page.partition('onclick="persresCardClicked(')[2].partition(');"')[0])
    return json.loads(f"[{call}]")[1]


def test_its_card_has_its_words_and_the_users_strength(host):
    """Among the residuals always; the Lora folder's own where the settings say so."""
    inside = host.data / "models" / "persres" / "moved.safetensors"
    shutil.copy(host.data / "models" / "Lora" / "places.safetensors", inside)
    notes = host.data / "models" / "Lora" / "looks.json"
    notes.write_text(json.dumps({"activation text": "a grey dog, grass", "preferred weight": 0.7}))
    host.post("/persres/v1/refresh")
    try:
        assert clicked(host, "lora/looks") is None
        moved = clicked(host, "moved")
        assert moved["problem"] is None
        assert (moved["names"], moved["plain"], moved["phrase"]) == (["moved"], True, "dog")
        with host.options(persres_loras="cards"):
            host.post("/persres/v1/refresh")
            looks = clicked(host, "lora/looks")
            assert looks == {
                "names": ["lora/looks", "looks"],
                "noun": "",
                "phrase": "a grey dog, grass",
                "plain": True,
                "strength": 0.7,
                "problem": None,
            }
            assert clicked(host, "lora/reader")["phrase"] == ""
        with host.options(persres_loras="never"):
            assert "There is no residual" in str(told(host.generate(f"{DOG}<persres:looks>")))
            assert same(host.image(f"{DOG}<persres:moved>"), host.image(f"{DOG}<persres:moved>"))
    finally:
        inside.unlink()
        notes.unlink()
        host.post("/persres/v1/refresh")


def test_the_users_own_words_are_looked_for_before_the_files(host):
    notes = host.data / "models" / "Lora" / "places.json"
    text = "a dog on a beach"
    notes.write_text(json.dumps({"activation text": "grass, beach"}))
    try:
        own = host.image(f"{text}<persres:places>", LAG, steps=8)
    finally:
        notes.unlink()
    by_file = host.image(f"{text}<persres:places>", LAG, steps=8)
    assert same(own, host.image(f"{text}<persres:places:word=beach>", LAG, steps=8)) and not same(own, by_file)


def test_two_of_one_word_act_together_where_it_is(host):
    """As one of a thing's look and one of its coat."""
    both = host.generate(f"{DOG}<persres:looks:2:word=dog><persres:places:2:word=dog>", LAG, steps=8)
    assert told(both) == []
    for one in ("looks", "places"):
        assert not near(both.images[0], host.image(f"{DOG}<persres:{one}:2:word=dog>", LAG, steps=8))


def test_a_text_of_nothing_but_its_tag_is_an_empty_one(host):
    for text in ("", "a dog AND "):
        mine = host.image(f"{text}<persres:reader:0.7>", negative_prompt="a cat")
        assert near(mine, host.image(f"{text}<lora:reader:0.7>", negative_prompt="a cat"))
