"""Residuals on other targets than proj_out: they draw what a LoRA of the same ΔW draws, and LAG confines proj_out."""

import pytest
import standalone_models as models
import torch
from checkout import A1111
from host import make_residual
from lag_checks import OPTIMIZATIONS, check_lag
from pictures import LAG, REX, near, same
from safetensors.torch import save_file

from lib_persres.residual import Residual

RULES = {"keys": "kv", "entry": "proj_in", "all": "proj_in+kv+proj_out", "cross": "attn2"}
BASE = "a photo of a olis dog"
LONG = "a house " * 45 + "BREAK a olis dog"
CALLS = {
    "one image": {},
    "batch of 2": {"batch_size": 2},
    "a longer prompt": {"prompt": LONG},
    "a longer negative prompt": {"negative_prompt": "bad " * 80},
    "AND": {"prompt": "a olis dog AND a house :0.5"},
    "hires": {"enable_hr": True, "hr_upscaler": "Latent", "denoising_strength": 0.6},
}


@pytest.fixture(scope="module", autouse=True)
def files(host):
    """A residual of each rule, and a LoRA of the same ΔW."""
    unet = models.tiny_unet()
    for seed, (name, rule) in enumerate(RULES.items()):
        path = make_residual(host.data, name, unet, seed, "olis", "dog", targets=rule)
        tensors = {}
        for target, factors in Residual.load(path).factors.items():
            key = "lora_unet_" + target.replace(".", "_")
            shape = unet.get_submodule(target).weight.shape[2:]  # 1×1, or none for a Linear
            for side, tensor in (("down", factors.down), ("up", factors.up)):
                tensors[f"{key}.lora_{side}.weight"] = tensor.reshape(*tensor.shape, *shape).contiguous()
            tensors[f"{key}.alpha"] = torch.tensor(float(factors.rank))
        save_file(tensors, host.data / "models" / "Lora" / f"{name}.safetensors")
    host.post("/sdapi/v1/refresh-loras")
    host.post("/persres/v1/refresh")


def agree(host, name, **options):
    """The residual's images are the LoRA's, and not the model's own."""
    prompt = options.pop("prompt", BASE)
    base, ours, lora = (
        host.generate(f"{prompt}{tag}", **options).images for tag in ("", f" <persres:{name}>", f" <lora:{name}:1>")
    )
    for index in range(len(base)):
        assert near(ours[index], lora[index]) and not near(ours[index], base[index])
    assert host.get("/probe/hooks") == []


@pytest.mark.parametrize("title", OPTIMIZATIONS)
def test_a_residual_draws_what_its_lora_draws_under_every_attention(host, title):
    if not A1111:
        pytest.skip("This host chooses its attention when it starts.")
    with host.options(cross_attention_optimization=title):
        assert host.get("/probe/attention") == OPTIMIZATIONS[title]
        for name in RULES:
            agree(host, name)


@pytest.mark.parametrize("how", ["together", "apart", "padded"])
@pytest.mark.parametrize("call", CALLS)
def test_a_residual_of_keys_and_values_draws_what_its_lora_draws(host, call, how):
    with host.split(how == "apart"), host.options(**({"pad_cond_uncond": True} if how == "padded" else {})):
        agree(host, "keys", **CALLS[call])
        agree(host, "all", **CALLS[call])


def test_each_image_of_a_batch_has_its_own_keys_and_values(host):
    prompts = [BASE, f"{BASE} <persres:keys>", f"{BASE} <persres:keys:0.5> <persres:rex>"]
    batch = host.generate("||".join(prompts), batch_size=3).images
    for index, prompt in enumerate(prompts):
        assert near(batch[-3 + index], host.image(prompt, seed=5 + index))


def test_lag_confines_proj_out_of_a_residual_with_more_targets(host):
    def draw(prompt, args):
        return host.generate(prompt.replace("persres:rex", "persres:all"), args, batch_size=2).images[-2:]

    check_lag(host, draw)


def test_keys_and_values_alone_are_confined_by_the_fitted_mask_and_by_the_median_not(host, reference):
    prompt, plain = REX.replace("persres:rex", "persres:keys"), [{"lag": False}]
    confined = host.generate(prompt, LAG, steps=8)
    assert "Persres problems" not in confined.info["extra_generation_params"]
    assert not same(confined.images[0], host.image(prompt, plain, steps=8))
    lag = host.generate(prompt, [{"lag": True, "mask": "median"}])
    assert same(lag.images[0], host.image(prompt, plain))
    told = lag.info["extra_generation_params"]["Persres problems"]
    assert "LAG cannot confine <persres:keys>, which changes kv, not proj_out" in str(told)
    # the concept beside it is confined as ever
    two = "a V* dog and a V2* cat <persres:keys><persres:mia>"
    assert not near(host.image(two, LAG), host.image(two, [{"lag": False}]))
    # the unconditional row can be the base model's
    assert not near(host.image(prompt, [{"unconditional": "base"}]), lag.images[0])
    assert host.get("/probe/hooks") == [] and same(host.image("a photo of a dog"), reference["plain"][0])
