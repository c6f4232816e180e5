"""A residual written as a LoRA is the same change of weights in every program's names."""

import json

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

pytest.importorskip("ldm")

from lib_persres.commands import main
from lib_persres.errors import PersresError
from lib_persres.lora.adapter import trigger_words
from lib_persres.lora.read import read_lora
from lib_persres.lora.write import FORMS, save_lora
from lib_persres.residual import Factors, Metadata, Residual
from lib_persres.standalone.full_sizes import UNETS
from lib_persres.standalone.modules import build_unet
from lib_persres.unet import find_targets

FAMILIES = ("SD1", "SD2", "SDXL")
KEYS = "input_blocks.1.1.transformer_blocks.0.attn2.to_k"


def residual(family, rule, embeddings=None):
    """Of rank 1, of the real UNet's widths."""
    with torch.device("meta"):
        targets = find_targets(build_unet(UNETS[family]), rule)
    factors = {}
    for seed, target in enumerate(targets):
        generator = torch.Generator().manual_seed(seed)
        width_in, width = target.widths
        factors[target.path] = Factors(*(torch.randn(s, generator=generator) for s in ((1, width_in), (width, 1))))
    facts = Metadata("rex", "olis", "dog", base_family=family, targets=rule, image_hashes=["x"] * 5)
    return Residual(factors, facts, embeddings or {})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", ["proj_out", "unet"])
def test_it_is_read_back_to_the_bit(tmp_path, family, rule, form):
    made = residual(family, rule)
    assert save_lora(made, tmp_path / "rex.safetensors", form, torch.float32) == []
    found = read_lora(tmp_path / "rex.safetensors")
    assert found.unet.keys() == made.factors.keys() and not found.notes
    for path, factors in made.factors.items():
        assert torch.equal(found.unet[path].down, factors.down) and torch.equal(found.unet[path].up, factors.up)
    assert trigger_words(found.strings)[0] == "olis dog"


def test_diffusers_modules_have_its_names_and_shapes(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        modules = dict(diffusers.UNet2DConditionModel(cross_attention_dim=768).named_modules())
    save_lora(residual("SD1", "unet"), tmp_path / "rex.safetensors", "diffusers")
    for name, tensor in safetensors.torch.load_file(tmp_path / "rex.safetensors").items():
        path, _, side = name.removeprefix("unet.").removesuffix(".weight").rpartition(".")
        weight = modules[path].weight
        assert tensor.ndim == weight.ndim
        if side == "lora_A":
            assert tensor.shape[1:] == weight.shape[1:]
        else:
            assert tensor.shape[0] == weight.shape[0] and tensor[0].numel() == 1


def test_alpha_is_the_rank_and_the_header_is_what_tools_show(tmp_path):
    save_lora(residual("SDXL", "proj_out"), tmp_path / "mine.safetensors")
    with safe_open(tmp_path / "mine.safetensors", "pt") as file:
        strings, names = file.metadata(), list(file.keys())
        assert all(file.get_tensor(name).item() == 1 for name in names if name.endswith(".alpha"))
    assert all(name.startswith("lora_unet_") for name in names)
    assert "lora_unet_input_blocks_4_1_proj_out.alpha" in names  # kohya's own names of SDXL are ldm's
    assert strings["ss_base_model_version"] == "sdxl_base_v1-0" and strings["ss_network_dim"] == "1"
    assert json.loads(strings["ss_tag_frequency"]) == {"1_olis dog": {"olis dog": 5}}
    assert strings["modelspec.trigger_phrase"] == "olis dog"


def small(factors, embeddings=None, **facts):
    made = {
        target: Factors(torch.ones(r, width_in), torch.ones(width, r))
        for target, (r, width_in, width) in factors.items()
    }
    return Residual(
        made, Metadata(**{"concept": "rex", "identifier": "olis", "macro_class": "dog", **facts}), embeddings or {}
    )


def test_an_alpha_is_the_rank_in_any_precision(tmp_path):
    save_lora(small({KEYS: (301, 768, 320)}), tmp_path / "rex.safetensors", dtype=torch.bfloat16)
    (alpha,) = (t for name, t in safetensors.torch.load_file(tmp_path / "rex.safetensors").items() if "alpha" in name)
    assert alpha.item() == 301


def test_for_diffusers_all_modules_are_of_one_rank_and_read_back_as_they_were(tmp_path):
    made = small(
        {KEYS: (2, 768, 320), "middle_block.1.proj_out": (5, 1280, 1280), "input_blocks.1.0.in_layers.2": (1, 9, 4)}
    )
    save_lora(made, tmp_path / "rex.safetensors", "diffusers", torch.float32)
    tensors = safetensors.torch.load_file(tmp_path / "rex.safetensors")
    assert {t.shape[0] if "lora_A" in name else t.shape[1] for name, t in tensors.items()} == {5}
    found = read_lora(tmp_path / "rex.safetensors").unet
    for target, factors in made.factors.items():
        assert torch.equal(found[target].down, factors.down) and torch.equal(found[target].up, factors.up)


@pytest.mark.parametrize("width, base", [(768, "sd_v1"), (1024, "sd_v2"), (2048, "sdxl_base_v1-0")])
def test_the_family_is_told_by_the_widths_where_the_header_does_not(tmp_path, width, base):
    save_lora(small({KEYS: (2, width, 320)}, base_family=""), tmp_path / "rex.safetensors")
    with safe_open(tmp_path / "rex.safetensors", "pt") as file:
        assert file.metadata()["ss_base_model_version"] == base


def test_a_learned_word_is_bundled_as_the_webui_reads_it(tmp_path):
    word = torch.randn(2, 768)
    made = residual("SD1", "proj_out", {"olis": word})
    assert save_lora(made, tmp_path / "a.safetensors", dtype=torch.float32) == []
    tensors = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert torch.equal(tensors["bundle_emb.olis.string_to_param.*"], word)
    assert "left out" in str(save_lora(made, tmp_path / "b.safetensors", "diffusers"))
    both = {"clip_l.olis": torch.randn(768), "clip_g.olis": torch.randn(1280)}
    save_lora(residual("SDXL", "proj_out", both), tmp_path / "c.safetensors")
    tensors = safetensors.torch.load_file(tmp_path / "c.safetensors")
    assert tensors["bundle_emb.olis.clip_l"].shape == (1, 768) and tensors["bundle_emb.olis.clip_g"].shape == (1, 1280)


def test_a_word_that_a_bundle_cannot_hold_is_told(tmp_path):
    made = small({KEYS: (2, 768, 320)}, {"ol.is+": torch.ones(768)}, identifier="ol.is+", targets="embedding+kv")
    (told,) = save_lora(made, tmp_path / "a.safetensors")
    assert '"ol_is+"' in told
    assert "bundle_emb.ol_is+.string_to_param.*" in safetensors.torch.load_file(tmp_path / "a.safetensors")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "target, said", [("abc", "no module"), ("proj_out", "no module"), ("input_blocks.1.0.in_layers.2", "3×3")]
)
def test_a_residual_of_no_unet_is_refused(tmp_path, form, target, said):
    with pytest.raises(PersresError, match=said):
        save_lora(small({target: (1, 5, 5)}), tmp_path / "rex.safetensors", form)
    assert not list(tmp_path.iterdir())


def test_no_file_is_replaced_and_none_is_left_half(tmp_path):
    made = residual("SD1", "proj_out")
    save_lora(made, tmp_path / "rex.safetensors")
    before = (tmp_path / "rex.safetensors").read_bytes()
    with pytest.raises(PersresError, match="is there already"):
        save_lora(made, tmp_path / "rex.safetensors")
    with pytest.raises(PersresError, match="too large"):
        large = {path: Factors(f.down * 1e6, f.up) for path, f in made.factors.items()}
        save_lora(Residual(large, made.metadata), tmp_path / "large.safetensors")
    with pytest.raises(PersresError, match="ends in .safetensors"):
        save_lora(made, tmp_path / "rex.ckpt")
    with pytest.raises(PersresError, match="floating point"):
        save_lora(made, tmp_path / "x.safetensors", dtype=torch.int8)
    with pytest.raises(PersresError, match="lora or diffusers"):
        save_lora(made, tmp_path / "x.safetensors", "other")
    assert [path.name for path in tmp_path.iterdir()] == ["rex.safetensors"]
    assert (tmp_path / "rex.safetensors").read_bytes() == before


def test_the_command_writes_it_and_says_what_to_write(tmp_path, capsys):
    residual("SD1", "proj_out").save(tmp_path / "residuals" / "rex.safetensors")
    options = ["--residuals", str(tmp_path / "residuals"), "--out", str(tmp_path / "loras")]
    assert main(["export", "rex", *options]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() == str(tmp_path / "loras" / "rex.safetensors") and '"olis dog"' in shown.err
    assert main(["export", str(tmp_path / "loras" / "rex.safetensors"), *options]) == 1
    assert "is a LoRA already" in capsys.readouterr().err
    assert main(["export", "rex", *options]) == 1
    assert "is there already" in capsys.readouterr().err
