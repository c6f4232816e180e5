"""LoRA files by our tag: plain they draw what the WebUI's own `<lora:...>` draws, under LAG they are confined."""

import pytest
import standalone_models as models
import torch
from host import make_residual
from pictures import LAG, near, same, told
from safetensors.torch import save_file

from lib_persres.residual import Residual
from lib_persres.unet import find_targets

RULES = {"looks": "attn1+attn2", "places": "proj_in+attn1+attn2+proj_out", "whole": "unet"}
DOG = "a photo of a dog on a beach"


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
            key, kernel = "diffusion_model_" + target.replace(".", "_"), kernels[target]
            down = factors.down.unflatten(1, (-1, *kernel)) if kernel else factors.down
            up = factors.up[..., None, None] if kernel else factors.up
            tensors |= {f"{key}.lora_down.weight": 0.5 * down, f"{key}.lora_up.weight": up}
            tensors[f"{key}.alpha"] = torch.tensor(2.0)
        path.unlink()
        made.append(host.data / "models" / "Lora" / f"{name}.safetensors")
        facts = {"ss_tag_frequency": '{"5_dog": {"dog": 3}}'} if name == "places" else None
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, made[-1], facts)
    host.post("/sdapi/v1/refresh-loras")
    host.post("/persres/v1/refresh")
    yield
    for path in made:
        path.unlink()


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
    assert len(lag.images) == 2 and told(lag) == []
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
