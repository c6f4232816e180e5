"""A LoRA file acts as a residual does, and its word is found in prompts."""

import contextlib
import json
from dataclasses import replace

import pytest
import torch

pytest.importorskip("ldm")

import longhand
from rounding import PICTURE
from safetensors.torch import save_file
from standalone_models import TEXT, tiny_text, tiny_vae
from targets_bench import random_residual

from lib_persres.errors import PersresError
from lib_persres.lora.adapter import (
    MOST_WORDS,
    Adapter,
    called,
    load_file,
    more_words,
    outline_file,
    rule_of,
    trigger_words,
    word_in,
)
from lib_persres.lora.names import kohya_name
from lib_persres.prompt import read_tag
from lib_persres.residual import Factors, Metadata, Residual
from lib_persres.standalone.checkpoint import StableDiffusion, alphas_cumprod
from lib_persres.standalone.generate import generate

SHAPE = {"width": 16, "height": 16, "steps": 3}


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return StableDiffusion(
        unet=longhand.make_unet(),
        vae=tiny_vae(),
        texts={"": longhand.random_(tiny_text())},
        scale_factor=0.5,
        alphas_cumprod=alphas_cumprod(0.00085, 0.012, 1000),
        device=torch.device("cpu"),
        dtype=torch.float32,
        path=tmp_path_factory.mktemp("model") / "tiny.safetensors",
    )


def lora(sd, path, rule="attn1+attn2", seed=0, metadata=None, alpha=2.0, **more):
    """A LoRA file of kohya's names, and the residual that it should be."""
    made = random_residual(sd.unet, rule, 4, seed, 0.3)
    tensors = dict(more)
    for target, f in made.factors.items():
        name = "lora_unet_" + target.replace(".", "_")
        tensors |= {f"{name}.lora_down.weight": f.down, f"{name}.lora_up.weight": f.up}
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    factors = {target: Factors(f.down, f.up * alpha / 4) for target, f in made.factors.items()}
    return Residual(factors, Metadata(identifier="dog", targets=rule))


def draw(sd, prompt, shelf, **options):
    return generate(sd, prompt, shelf.__getitem__, **SHAPE, **options)


@pytest.mark.parametrize("rule", ["attn1+attn2", "proj_in+attn1+attn2+proj_out", "unet"])
@pytest.mark.parametrize("lag", [False, True])
def test_it_draws_what_the_same_factors_draw(sd, tmp_path, rule, lag):
    own = lora(sd, tmp_path / "x.safetensors", rule)
    loaded = load_file(tmp_path / "x.safetensors")
    assert isinstance(loaded, Adapter) and loaded.metadata.targets == rule
    found = draw(sd, "<persres:x:0.8:word=dog> a photo of a dog", {"x": loaded}, lag=lag)
    expected = draw(sd, "<persres:x:0.8> a photo of a dog", {"x": own}, lag=lag)
    base = draw(sd, "a photo of a dog", {})
    assert torch.equal(found.images, expected.images) and not found.problems
    assert (found.images - base.images).abs().max() > 4 * PICTURE


def test_lag_confines_it_and_shows_where(sd, tmp_path):
    lora(sd, tmp_path / "x.safetensors")
    shelf = {"x": load_file(tmp_path / "x.safetensors")}
    plain, lag = (draw(sd, "<persres:x:word=dog> a photo of a dog", shelf, lag=on) for on in (False, True))
    assert (plain.images - lag.images).abs().max() > 4 * PICTURE
    assert lag.uses[0].gated and lag.uses[0].indices == ((5,),) and lag.masks.masks


def test_several_words_are_looked_for_together(sd, tmp_path):
    lora(sd, tmp_path / "x.safetensors")
    shelf = {"x": load_file(tmp_path / "x.safetensors")}
    (use,) = draw(sd, "<persres:x:word=dog+beach> a dog on a beach", shelf, lag=True).uses
    assert use.indices == ((2, 5),)


def test_its_word_is_the_tags_else_a_trigger_else_its_name(sd, tmp_path):
    path = tmp_path / "rex.safetensors"
    lora(sd, path, metadata={"ss_tag_frequency": '{"10_olis dog": {"olis dog": 9, "grass": 1}}'})
    loaded = load_file(path)
    assert loaded.words == ("olis dog",)
    for prompt, tag, word in (
        ("an olis dog", ["rex"], "olis dog"),
        ("an OLIS DOG", ["rex"], "olis dog"),
        ("a rex", ["rex"], "rex"),
        ("a cat", ["rex"], ""),
        ("an olis dog", ["rex", "word=cat"], "cat"),
        ("a rexdog", ["rex"], ""),
        ("<persres:rex> a cat", ["rex"], ""),
        (r"a cat \(animal\)", ["rex", r"word=cat \(animal\)"], "cat (animal)"),
    ):
        assert word_in(loaded, prompt, read_tag(tag)) == word


def test_brackets_of_a_word_are_read_as_the_prompts(sd, tmp_path):
    lora(sd, tmp_path / "x.safetensors")
    loaded = load_file(tmp_path / "x.safetensors")
    for kept in (r"cat \(animal\)", "cat (animal)"):
        assert word_in(loaded, r"a cat \(animal\) on a sofa", read_tag(["x"]), [kept]) == "cat (animal)"
    made = draw(sd, r"<persres:x:word=cat \(animal\)> a cat \(animal\)", {"x": loaded}, lag=True)
    assert made.uses[0].gated and len(made.uses[0].indices[0]) == 4 and not made.problems


def test_without_a_word_it_acts_everywhere_and_that_is_told(sd, tmp_path):
    lora(sd, tmp_path / "x.safetensors")
    shelf = {"x": load_file(tmp_path / "x.safetensors")}
    lag = draw(sd, "<persres:x> a photo of a dog", shelf, lag=True)
    assert torch.equal(lag.images, draw(sd, "<persres:x> a photo of a dog", shelf).images)
    assert any("word=dog" in sentence for sentence in lag.problems)


def with_text(sd, path, seed=3, size=0.5):
    """A file that changes the text encoder, too; its own weights by the layers' paths."""
    generator = torch.Generator().manual_seed(seed)
    more, changes = {}, {}
    for name, module in sd.text.transformer.named_modules():
        inside = name.partition("layers.0.")[2]
        if not inside or not hasattr(module, "in_features"):
            continue
        down = torch.randn(2, module.in_features, generator=generator)
        up = torch.randn(module.out_features, 2, generator=generator) * size
        start = f"lora_te_text_model_encoder_layers_0_{inside.replace('.', '_')}"
        more |= {f"{start}.lora_down.weight": down, f"{start}.lora_up.weight": up}
        changes[f"{name}.weight"] = up @ down
    lora(sd, path, **more)
    return changes


@contextlib.contextmanager
def merged_text(sd, changes, strength):
    """The text encoder with them in its weights."""
    weights = dict(sd.text.transformer.named_parameters())
    for name, delta in changes.items():
        weights[name].data += strength * delta
    try:
        yield
    finally:
        for name, delta in changes.items():
            weights[name].data -= strength * delta


def test_plainly_its_part_for_the_text_encoder_acts_on_both_prompts(sd, tmp_path):
    path = tmp_path / "x.safetensors"
    changes = with_text(sd, path)
    before = {name: weight.clone() for name, weight in sd.text.transformer.named_parameters()}
    shelf, prompt = {"x": load_file(path)}, "<persres:x:0.7:word=dog{}> a photo of a dog"
    found = draw(sd, prompt.format(""), shelf, negative="a grey cat")
    assert not found.problems
    assert all(torch.equal(before[name], weight) for name, weight in sd.text.transformer.named_parameters())
    assert not any(module._forward_hooks for module in sd.text.transformer.modules())
    without = shelf["x"]
    bare = {"x": replace(without, text={})}
    with merged_text(sd, changes, 0.7):
        expected = draw(sd, prompt.format(""), bare, negative="a grey cat")
    assert (found.images - expected.images).abs().max() < PICTURE
    left_out = draw(sd, prompt.format(""), bare, negative="a grey cat")
    assert (found.images - left_out.images).abs().max() > 4 * PICTURE


def test_lag_leaves_that_out_unless_the_tag_keeps_it(sd, tmp_path):
    path = tmp_path / "x.safetensors"
    with_text(sd, path)
    shelf, prompt = {"x": load_file(path)}, "<persres:x:0.7:word=dog{}> a photo of a dog"
    bare = {"x": replace(shelf["x"], text={})}
    lag, kept = (draw(sd, prompt.format(more), shelf, lag=True) for more in ("", ":text=on"))
    assert torch.equal(lag.images, draw(sd, prompt.format(""), bare, lag=True).images)
    assert ["text=on in the tag keeps it" in told for told in lag.problems] == [True] and not kept.problems
    assert (lag.images - kept.images).abs().max() > 4 * PICTURE
    # a tag's own switch decides, and a word that is not there leaves LAG nothing to confine
    own = draw(sd, prompt.format(":lag=off"), shelf, lag=True)
    assert torch.equal(own.images, draw(sd, prompt.format(""), shelf).images)
    nowhere = draw(sd, "<persres:x:0.7> a photo of a dog", shelf, lag=True)
    assert torch.equal(nowhere.images, own.images)


def test_text_off_leaves_out_keys_and_values_as_well(sd, tmp_path):
    path = tmp_path / "x.safetensors"
    with_text(sd, path)
    loaded = load_file(path)
    texts = ("attn2.to_k", "attn2.to_v")
    rest = {target: factors for target, factors in loaded.factors.items() if not target.endswith(texts)}
    assert len(rest) < len(loaded.factors)
    bare = {"x": replace(loaded, factors=rest, text={})}
    for lag in (False, True):
        off = draw(sd, "<persres:x:0.7:word=dog:text=off> a photo of a dog", {"x": loaded}, lag=lag)
        expected = draw(sd, "<persres:x:0.7:word=dog> a photo of a dog", bare, lag=lag)
        assert torch.equal(off.images, expected.images) and not off.problems


def test_layers_that_the_text_encoder_has_not_are_told(sd, tmp_path):
    name = "lora_te_text_model_encoder_layers_{}_mlp_fc1.lora_"
    wide = {
        name.format(9) + "down.weight": torch.ones(2, TEXT["hidden_size"]),
        name.format(9) + "up.weight": torch.ones(8, 2),
    }
    wide |= {name.format(0) + "down.weight": torch.ones(2, 5), name.format(0) + "up.weight": torch.ones(5, 2)}
    lora(sd, tmp_path / "x.safetensors", **wide)
    made = draw(sd, "<persres:x:word=dog> a dog", {"x": load_file(tmp_path / "x.safetensors")})
    assert any("2 layers of its part for the text encoder are left out" in told for told in made.problems)


def test_what_is_left_out_of_it_is_told(sd, tmp_path):
    lora(sd, tmp_path / "x.safetensors", odd=torch.ones(1))
    made = draw(sd, "<persres:x:word=dog> a dog", {"x": load_file(tmp_path / "x.safetensors")})
    assert any("odd" in told for told in made.problems)


def test_a_word_for_a_file_that_has_its_own_is_told(sd):
    rex = Residual(longhand.random_residual(sd.unet, 2).factors, Metadata(identifier="olis", macro_class="dog"))
    made = draw(sd, "<persres:rex:word=cat> a V* dog", {"rex": rex})
    assert any('has a word of its own, "olis"' in told for told in made.problems)


def test_it_competes_for_pixels_with_a_residual(sd, tmp_path):
    lora(sd, tmp_path / "x.safetensors")
    rex = Residual(longhand.random_residual(sd.unet, 2).factors, Metadata(identifier="olis", macro_class="dog"))
    shelf = {"x": load_file(tmp_path / "x.safetensors"), "rex": rex}
    made = draw(sd, "<persres:rex><persres:x:word=cat> a V* dog and a cat", shelf, lag=True)
    assert [use.indices for use in made.uses] == [((2, 3),), ((6,),)] and not made.problems
    for masks in made.masks.masks.values():
        assert masks.sum(1).max() <= max(made.masks.calls.values())


def test_another_models_file_is_refused(sd, tmp_path):
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    path = tmp_path / "x.safetensors"
    save_file({f"{name}.lora_down.weight": torch.ones(2, 640), f"{name}.lora_up.weight": torch.ones(640, 2)}, path)
    with pytest.raises(PersresError, match="x was trained for another model"):
        draw(sd, "<persres:x:word=dog> a dog", {"x": load_file(path)})


def test_its_outline_has_no_numbers_and_says_the_same(sd, tmp_path):
    path = tmp_path / "x.safetensors"
    lora(sd, path)
    outline, whole = outline_file(path), load_file(path)
    assert not outline.factors and outline.metadata.targets == whole.metadata.targets
    outline.check(sd.unet)


def test_rules_say_what_is_changed_and_little_besides():
    for path, rule in (
        ("input_blocks.1.1.transformer_blocks.0.attn1.to_out.0", "attn1"),
        ("input_blocks.1.1.transformer_blocks.0.attn2.to_v", "kv"),
        ("input_blocks.1.1.transformer_blocks.0.attn2.to_q", "attn2"),
        ("input_blocks.1.1.proj_in", "proj_in"),
        ("middle_block.1.proj_out", "proj_out"),
        ("input_blocks.1.1.transformer_blocks.0.ff.net.2", "ff"),
        ("input_blocks.1.0.in_layers.2", "unet"),
        ("time_embed.0", "unet"),
    ):
        assert rule_of({path: None}) == rule


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "[]",
        "null",
        "3",
        '{"a": 3}',
        '{"10_": {}}',
        '{"10_dog": {"x": null}}',
        "[" * 100_000,
        '{"\\u0000": {}}',
        '{"x": {"y": 1%s}, "z": {"y": 0.5}}' % ("0" * 400),
        '{"x": {"y": NaN, "z": Infinity, "a": true}}',
    ],
)
def test_any_header_gives_words_or_none(text):
    words = trigger_words({"ss_tag_frequency": text, "modelspec.trigger_phrase": "a, b ,,"})
    assert words[:2] == ("a", "b")


def test_kohyas_names_for_a_path():
    assert kohya_name("input_blocks.1.1.proj_in", "SD1") == "lora_unet_down_blocks_0_attentions_0_proj_in"
    assert kohya_name("input_blocks.4.1.proj_in", "SDXL") == "lora_unet_input_blocks_4_1_proj_in"


def test_two_files_about_the_same_word_act_together_where_it_is(sd, tmp_path):
    for seed, name in enumerate("xy"):
        lora(sd, tmp_path / f"{name}.safetensors", seed=seed)
    shelf = {name: load_file(tmp_path / f"{name}.safetensors") for name in "xy"}
    both = draw(sd, "<persres:x:word=dog><persres:y:word=dog> a photo of a dog", shelf, lag=True)
    assert not both.problems and [use.gated for use in both.uses] == [True, True]
    assert both.uses[0].indices == both.uses[1].indices != ()
    for masks in both.masks.masks.values():
        assert (masks[:, 0] != masks[:, 1]).float().mean() < 0.05  # but for rounding at a threshold


def test_a_trigger_with_a_plus_is_one_word(sd, tmp_path):
    lora(sd, tmp_path / "x.safetensors", metadata={"modelspec.trigger_phrase": "+_+"})
    loaded = load_file(tmp_path / "x.safetensors")
    word = word_in(loaded, "a dog, +_+", read_tag(["x"]))
    assert word == "+_+" and called(loaded, word).identifier == "+_+" and more_words(word) == []
    both = word_in(loaded, "a dog", read_tag(["x", "word=dog+cat"]))
    assert called(loaded, both).identifier == "dog" and more_words(both) == ["cat"]


def test_a_header_of_many_words_gives_some(sd):
    folders = {f"1_word{number}": {} for number in range(5000)}
    assert len(trigger_words({"ss_tag_frequency": json.dumps(folders)})) == MOST_WORDS


def test_an_outline_says_the_rank(sd, tmp_path):
    lora(sd, tmp_path / "x.safetensors")
    assert (
        outline_file(tmp_path / "x.safetensors").metadata.rank
        == load_file(tmp_path / "x.safetensors").metadata.rank
        == "4"
    )
