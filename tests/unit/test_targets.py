"""Targets beside proj_out: which modules a rule picks, and the residuals of them."""

import pytest
import torch

pytest.importorskip("ldm")

import longhand
from branch_calls import KINDS
from targets_bench import ATTN2, BLOCK, RULES, random_residual, without

from lib_persres.errors import PersresError
from lib_persres.residual import Factors, Residual
from lib_persres.targets import EVERY, canonical
from lib_persres.training.options import TARGETS
from lib_persres.training.recipe import Stage
from lib_persres.unet import find_targets

# -- rules


@pytest.mark.parametrize(
    "rule, one",
    [
        ("proj_out+kv", "kv+proj_out"),
        (" proj_out + kv+proj_in ", "proj_in+kv+proj_out"),
        ("kv+kv", "kv"),
        ("attn2+kv", "attn2"),  # which has them
        ("unet+kv+proj_out+embedding", "embedding+unet"),
        *((rule, rule) for rule in RULES),
    ],
)
def test_a_rule_has_one_spelling(rule, one):
    assert canonical(rule) == one and Stage(targets=rule).targets == one
    assert Stage(targets=rule) == Stage(targets=one)


@pytest.mark.parametrize("rule", ["", "+", "kv+", "proj", "kv,proj_out", "KV", "x" * 100])
def test_a_rule_that_names_nothing_is_refused_in_one_sentence(rule, unets):
    for use in (canonical, lambda r: Stage(targets=r), lambda r: find_targets(unets(), r)):
        with pytest.raises(PersresError, match="proj_in, attn1, kv, attn2, ff, proj_out, unet") as caught:
            use(rule)
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize("kind", KINDS)
def test_a_rule_picks_its_modules_of_every_block_and_layer(unets, kind):
    unet = unets(kind)
    layers = KINDS[kind].get("depth", 1)
    kv = [f"transformer_blocks.{i}.attn2.to_{part}" for i in range(layers) for part in "kv"]
    attn1, attn2 = (
        [f"transformer_blocks.{i}.attn{n}.to_{part}" for i in range(layers) for part in ("q", "k", "v", "out.0")]
        for n in (1, 2)
    )
    both = [path for i in range(layers) for path in (*attn1[4 * i : 4 * i + 4], *attn2[4 * i : 4 * i + 4])]
    expected = {
        "proj_out": ["proj_out"],
        "proj_in": ["proj_in"],
        "kv": kv,
        "attn2": attn2,
        "kv+proj_out": [*kv, "proj_out"],
        "proj_in+kv+proj_out": ["proj_in", *kv, "proj_out"],
        "attn1+attn2": both,
        "proj_in+attn2+proj_out": ["proj_in", *attn2, "proj_out"],
    }
    assert {*expected, EVERY} == set(RULES)
    for rule, names in expected.items():
        targets = find_targets(unet, rule)
        assert [target.path for target in targets] == [f"{b}.{n}" for b in longhand.transformers(unet) for n in names]
        for target in targets:
            assert target.module is unet.get_submodule(target.path)
            assert target.widths == tuple(target.module.weight.shape[1::-1])
            assert target.is_linear == isinstance(target.module, torch.nn.Linear)
            assert target.gated == target.path.endswith(".proj_out")


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_unet_is_every_layer_with_a_matrix(unets, kind):
    unet = unets(kind)
    targets = find_targets(unet, EVERY)
    layers = {n: m for n, m in unet.named_modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))}
    assert {target.path: target.module for target in targets} == layers
    blocks = longhand.transformers(unet)
    for target in targets:
        assert target.widths == tuple(target.module.weight.flatten(1).shape[::-1])
        inside = [block for block in blocks if target.path.startswith(f"{block}.")]
        assert ([target.block.name] if target.block else []) == inside
        assert target.gated == target.path.endswith(".proj_out")


def test_an_embedding_is_no_module_of_the_unet(unets):
    assert find_targets(unets(), "embedding") == []
    assert find_targets(unets(), "embedding+kv") == find_targets(unets(), "kv")


def test_a_unet_without_the_targets_is_told():
    class Bare(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.proj_in, self.proj_out = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
            self.transformer_blocks = torch.nn.ModuleList([torch.nn.Identity()])

    with pytest.raises(PersresError, match="Sequential has none of the targets kv"):
        find_targets(torch.nn.Sequential(Bare()), "kv")


# -- the residual


def test_a_seed_reads_proj_outs_factors_block_by_block(unets):
    made = Residual.initialise(unets(), 3, torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(7)
    for name, block in longhand.transformers(unets()).items():
        m_in = block.proj_out.in_channels
        down = torch.randn(3, m_in, generator=generator) * m_in**-0.5
        assert torch.equal(made.factors[f"{name}.proj_out"].down, down)
    assert len(made.factors) == len(longhand.transformers(unets())) and made.metadata.targets == "proj_out"


def test_the_rank_is_a_part_of_a_targets_smaller_width(unets):
    made = Residual.initialise(unets(), "0.25m", targets="proj_out+kv")
    assert made.metadata.targets == "kv+proj_out"
    # the context is 32 wide, the middle block 64
    middle = "middle_block.1"
    assert made.factors[f"{middle}.proj_out"].rank == 16
    keys = made.factors[f"{middle}.transformer_blocks.0.attn2.to_k"]
    assert (keys.rank, tuple(keys.down.shape), tuple(keys.up.shape)) == (8, (8, 32), (64, 8))
    assert not any(f.delta().any() for f in made.factors.values())


@pytest.mark.parametrize("rule", RULES)
def test_a_file_keeps_the_paths_and_fits_its_own_unet_alone(unets, rule, tmp_path):
    unet, path = unets("conv, two layers"), tmp_path / "rex.safetensors"
    made = random_residual(unet, rule)
    made.save(path, torch.float32)
    for read in (Residual.load, Residual.outline):
        loaded = read(path)
        assert set(loaded.factors) == {target.path for target in find_targets(unet, rule)}
        assert loaded.metadata.targets == rule
        loaded.check(unet)
    for other in ("conv", "linear, two layers"):
        if other == "conv" and rule in ("proj_in", "proj_out"):
            continue  # these are the same in both
        if other == "conv":
            with pytest.raises(PersresError, match="trained for another model"):
                loaded.check(unets(other))
        else:
            loaded.check(unets(other))  # of one shape, Linear or not


def test_what_lacks_a_target_of_its_rule_or_has_another_is_refused(unets):
    unet = unets()
    whole = random_residual(unet, "kv+proj_out")
    for lacking in ("proj_out", "attn2.to_v"):
        with pytest.raises(PersresError, match=f"nothing for this UNet's {BLOCK}.*{lacking}"):
            without(whole, lacking).check(unet)
    whole.metadata.targets = "proj_out"
    with pytest.raises(PersresError, match=f"^rex changes {ATTN2}.to_k, which is none of its targets, proj_out"):
        whole.check(unet, "rex")
    whole.metadata.targets = "values\n" * 100
    with pytest.raises(PersresError, match=r"^rex changes 'values.*update it\.$") as caught:
        whole.check(unet, "rex")
    assert len(str(caught.value)) < 150


def test_keys_for_another_width_of_context_are_told(unets):
    made = random_residual(unets(), "kv")
    path = f"{ATTN2}.to_k"
    made.factors[path] = Factors(torch.ones(3, 40), made.factors[path].up)
    with pytest.raises(PersresError, match=f"width 40 to 32 at {path}, this UNet has 32"):
        made.check(unets())


def test_sd1s_counts_of_parameters_by_target():
    from lib_persres.standalone.full_sizes import SD1_UNET
    from lib_persres.standalone.modules import build_unet

    with torch.device("meta"):
        unet = build_unet(SD1_UNET)
    widths = [320] * 5 + [640] * 5 + [1280] * 6
    projection = sum(round(0.05 * m) * 2 * m for m in widths)
    kv = sum(2 * round(0.05 * min(m, 768)) * (m + 768) for m in widths)
    expected = (projection, projection, kv, kv + projection, kv + 2 * projection)
    for rule, count in zip(TARGETS, expected, strict=True):
        made = Residual.initialise(unet, targets=rule)
        made.check(unet)
        assert made.parameters_count() == count
    assert (projection, kv) == (1_239_040, 1_558_528)
