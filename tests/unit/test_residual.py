"""A residual's factors: their rank, how they begin, what they add, and whether they fit a UNet."""

import pytest
import torch
from residual_samples import NAMES, Transformer, small_unet, unet_of
from rounding import PRODUCT, assert_near
from torch import nn

from lib_persres.errors import PersresError
from lib_persres.residual import Metadata, Residual, rank_of

# rank


@pytest.mark.parametrize("width, rank", [(320, 16), (640, 32), (1280, 64), (8, 1), (30, 2)])
def test_rank_is_the_papers_part_of_the_width_and_at_least_one(width, rank):
    assert rank_of("0.05m", width) == rank_of(" 0.05 m ", width) == rank_of(0.05, width) == rank
    assert rank_of("0.05", width) == rank


def test_rank_can_be_a_number_and_is_never_above_the_width():
    assert rank_of("8", 320) == rank_of(8, 320) == rank_of(8.0, 320) == 8
    assert rank_of(1, 320) == 1
    assert rank_of("1m", 320) == 320
    assert rank_of("500", 320) == rank_of(10**30, 320) == 320


@pytest.mark.parametrize(
    "rule",
    ["", "m", "0m", "0", 0, -1, "-0.1m", "2m", 2.5, "nan", float("nan"), "8x", True, None, "9" * 5000 + ".5"],
)
def test_bad_rank_rule_is_refused_in_one_sentence(rule):
    with pytest.raises(PersresError, match="0.05m") as caught:
        rank_of(rule, 320)
    assert len(str(caught.value)) < 200


# initialise


def test_initial_residual_changes_nothing_and_its_down_has_variance_one_over_m():
    made = Residual.initialise(unet_of({"a": Transformer(400)}), "1m", torch.Generator().manual_seed(0))
    factors = made.factors["a.proj_out"]
    assert factors.delta().shape == (400, 400) and not factors.delta().any()
    assert factors.down.var().item() == pytest.approx(1 / 400, rel=0.02)
    assert factors.down.mean().item() == pytest.approx(0, abs=1e-3)
    assert {factors.down.dtype, factors.up.dtype} == {torch.float32}


def test_initial_residual_depends_on_the_seed_alone_and_not_on_the_unets_device():
    def make(seed, unet):
        return Residual.initialise(unet, 4, torch.Generator().manual_seed(seed)).factors

    with torch.device("meta"):
        elsewhere = make(1, small_unet())
    first, other = make(1, small_unet()), make(2, small_unet())
    assert list(first) == [f"{name}.proj_out" for name in NAMES]
    for target, factors in first.items():
        assert torch.equal(factors.down, elsewhere[target].down)
        assert not torch.equal(factors.down, other[target].down)


def test_initial_residual_remembers_its_rank_rule_and_leaves_the_given_metadata_alone():
    given = Metadata(concept="rex")
    made = Residual.initialise(small_unet(), 4, metadata=given)
    assert (made.metadata.concept, made.metadata.rank, given.rank) == ("rex", "4", "0.05m")


def test_unequal_widths_give_a_delta_of_the_weights_shape():
    unet = unet_of({"a": Transformer(4, 6), "b": Transformer(6, 4, linear=True)})
    made = Residual.initialise(unet, "100")
    for name in "ab":
        factors = made.factors[f"{name}.proj_out"]
        assert factors.rank == 4 and factors.delta().shape == getattr(unet, name).proj_out.weight.shape[:2]
    made.check(unet)


def test_sd1_widths_give_the_papers_number_of_parameters():
    with torch.device("meta"):
        unet = unet_of({f"b{i}": Transformer(w) for i, w in enumerate([320] * 5 + [640] * 5 + [1280] * 6)})
    assert Residual.initialise(unet).parameters_count() == 1_239_040


def test_sd1s_own_unet_gives_the_papers_blocks_and_number_of_parameters():
    pytest.importorskip("ldm")
    from lib_persres.standalone.full_sizes import SD1_UNET
    from lib_persres.standalone.modules import build_unet

    with torch.device("meta"):
        unet = build_unet(SD1_UNET)
    made = Residual.initialise(unet)
    assert made.parameters_count() == 1_239_040 and len(made.factors) == 16
    assert next(iter(made.factors)) == "input_blocks.1.1.proj_out"
    made.check(unet)


def test_delta_added_to_the_weight_is_the_branch_added_to_the_output(residual):
    unet = small_unet()
    for name, shape in zip(NAMES, [(2, 8, 3, 3), (2, 9, 16)], strict=True):
        proj_out, x = unet.get_submodule(name).proj_out, torch.randn(shape)
        factors = residual.factors[f"{name}.proj_out"]
        pixels = x.movedim(1, -1) if x.ndim == 4 else x
        branch = pixels @ factors.down.T @ factors.up.T
        expected = proj_out(x) + (branch.movedim(-1, 1) if x.ndim == 4 else branch)
        with torch.no_grad():
            proj_out.weight += factors.delta().view_as(proj_out.weight)
        assert_near(proj_out(x), expected, PRODUCT)


# check


def test_residual_of_its_own_unet_passes_the_check(residual):
    residual.check(small_unet())


def test_check_says_which_width_differs_and_names_the_concept_or_file(residual):
    with pytest.raises(PersresError, match="width 8 at input_blocks.1.1.proj_out, this UNet has 12") as caught:
        residual.check(small_unet(width=12))
    assert "residual of rex" in str(caught.value) and "SD1" in str(caught.value)
    with pytest.raises(PersresError, match=r"^rex.safetensors was trained for another model"):
        residual.check(small_unet(width=12), "rex.safetensors")


def test_check_sees_each_side_of_a_width(residual):
    unet = unet_of({NAMES[0]: Transformer(8, 12), NAMES[1]: Transformer(16)})
    with pytest.raises(PersresError, match="this UNet has 8 to 12"):
        residual.check(unet)


def test_check_refuses_a_target_that_the_unet_lacks_and_a_block_that_the_residual_lacks(residual):
    with pytest.raises(PersresError, match="it changes middle_block.1.proj_out, which this UNet lacks"):
        residual.check(unet_of({NAMES[0]: Transformer(8)}))
    larger = small_unet()
    larger.add_module("extra", Transformer(8))
    with pytest.raises(PersresError, match="has nothing for this UNet's extra.proj_out"):
        residual.check(larger)


def test_check_refuses_a_model_without_blocks(residual):
    with pytest.raises(PersresError, match="no transformer blocks"):
        residual.check(nn.Linear(2, 2))
