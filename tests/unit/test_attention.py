import pytest
import torch
from torch import nn

pytest.importorskip("ldm")

import longhand
from rounding import PRODUCT, assert_near, rounding

from lib_persres.attention import Taps, concept_maps
from lib_persres.unet import Block, find_blocks

SCORE = 32
"""More than any q·k/√d here."""
MAPS = SCORE * rounding(64)
"""3e-5: a softmax has its scores' absolute error as its relative one."""


def attention(seed=0):
    block = longhand.transformers(longhand.make_unet(seed=seed))["middle_block.1"]
    return block.transformer_blocks[0].attn2


def example(seed=0, rows=3, pixels=15):
    module = attention(seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, pixels, module.to_q.in_features, generator=generator)
    context = torch.randn(rows, longhand.TOKENS, 32, generator=generator)
    return module, x, context


def indicator(*concepts, rows=3):
    out = torch.zeros(rows, len(concepts), longhand.TOKENS)
    for index, tokens in enumerate(concepts):
        out[:, index, list(tokens)] = 1
    return out


@torch.no_grad()
def test_concept_map_is_the_sum_of_its_tokens_maps_averaged_over_heads():
    module, x, context = example()
    concepts = [(3,), (3, 4, 7), tuple(range(longhand.TOKENS)), ()]
    maps = concept_maps(module.to_q(x), module.to_k(context), indicator(*concepts), module.heads)
    full = longhand.attention_map(module, x, context)
    assert maps.shape == (3, 4, 15)
    for index, tokens in enumerate(concepts):
        assert (maps[:, index].double() - full[..., list(tokens)].sum(-1)).abs().max() < MAPS


def test_concept_map_of_each_row_uses_its_own_tokens():
    module, x, context = example()
    chosen = torch.zeros(3, 1, longhand.TOKENS)
    for row in range(3):
        chosen[row, 0, row + 1] = 1
    maps = concept_maps(module.to_q(x), module.to_k(context), chosen, module.heads)
    full = longhand.attention_map(module, x, context)
    for row in range(3):
        assert (maps[row, 0].double() - full[row, :, row + 1]).abs().max() < MAPS


def test_all_tokens_together_make_one_and_fewer_make_less():
    module, x, context = example()
    maps = concept_maps(module.to_q(x), module.to_k(context), indicator(range(longhand.TOKENS), (1, 2)), module.heads)
    assert_near(maps[:, 0], torch.ones(3, 15), rounding(longhand.TOKENS, layers=8))
    assert (maps[:, 1] < 1).all() and (maps >= 0).all()


def test_concept_map_by_hand():
    # one pixel, d = 1, scores (ln 3, 0): the softmax is (3/4, 1/4)
    q, k = torch.tensor([[[1.0]]]), torch.tensor([[[3.0], [1.0]]]).log()
    maps = concept_maps(q, k, torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), heads=1)
    assert_near(maps, torch.tensor([[[0.75], [0.25]]]), PRODUCT)


def test_scores_are_divided_by_the_root_of_the_heads_width():
    # two heads of width 4: each score is 4·(ln 3)/4 before, (ln 3)/2 after the division by √4
    q = torch.ones(1, 1, 8)
    k = torch.stack([torch.full((8,), 0.25 * torch.tensor(3.0).log().item()), torch.zeros(8)])[None]
    maps = concept_maps(q, k, torch.tensor([[[1.0, 0.0]]]), heads=2)
    expected = 3**0.5 / (3**0.5 + 1)
    assert_near(maps, torch.tensor([[[expected]]]), PRODUCT)


def test_concept_map_of_half_precision_is_fp32():
    module, x, context = example()
    q, k = module.to_q(x), module.to_k(context)
    maps = concept_maps(q.half(), k.half(), indicator((1, 2)), module.heads)
    assert maps.dtype == torch.float32
    # scores of up to SCORE in half precision, whose eps is 2^-10
    assert (maps - concept_maps(q, k, indicator((1, 2)), module.heads)).abs().max() < SCORE * 2**-10


def test_gradients_flow_to_q_and_k():
    q = torch.randn(1, 3, 8, dtype=torch.float64, requires_grad=True)
    k = torch.randn(1, 5, 8, dtype=torch.float64, requires_grad=True)
    chosen = torch.tensor([[[0.0, 1.0, 1.0, 0.0, 0.0]]])
    (concept_maps(q, k, chosen, heads=2) * torch.tensor([1.0, -2.0, 3.0])).sum().backward()
    got = q.grad.clone(), k.grad.clone()
    q.grad = k.grad = None
    total = 0
    for part in (slice(0, 4), slice(4, 8)):
        soft = (q[..., part] @ k[..., part].transpose(1, 2) / 2).softmax(-1)
        total = total + (soft * chosen).sum(-1) / 2
    (total * torch.tensor([1.0, -2.0, 3.0])).sum().backward()
    for mine, theirs in zip(got, (q.grad, k.grad), strict=True):
        assert theirs.abs().max() > 1e-3
        assert_near(mine, theirs, PRODUCT)  # the map itself is fp32


# -- taps


class Attention(nn.Module):
    """An implementation that calls to_q and to_k in the order it likes."""

    def __init__(self, order):
        super().__init__()
        self.heads, self.order = 1, order
        self.to_q, self.to_k = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        for projection in (self.to_q, self.to_k):
            projection.weight.data = torch.eye(2)
        self.broken = None

    def forward(self, x, context):
        for name in self.order:
            if name == self.broken:
                raise RuntimeError("broken")
            self.get_submodule(f"to_{name}")(x if name == "q" else context)
        return x


def tapped(module, see):
    block = Block("block", module, nn.Identity(), (module,))
    return Taps([block], see)


@pytest.mark.parametrize("order", ["qk", "kq"])
@pytest.mark.parametrize("next_order", ["qk", "kq"])
def test_what_an_interrupted_forward_saw_does_not_pair_with_the_next_ones(order, next_order):
    module, seen = Attention(order), []
    tapped(module, lambda block, layer, q, k, heads: seen.append((q.mean().item(), k.mean().item())))
    module.broken = order[1]
    with pytest.raises(RuntimeError):
        module(torch.full((1, 3, 2), 1.0), torch.full((1, 5, 2), 2.0))
    assert seen == []
    module.broken, module.order = None, next_order
    module(torch.full((1, 3, 2), 3.0), torch.full((1, 5, 2), 4.0))
    module(torch.full((1, 3, 2), 5.0), torch.full((1, 5, 2), 6.0))
    assert seen == [(3.0, 4.0), (5.0, 6.0)]


@pytest.mark.parametrize("depth", [1, 2])
def test_taps_see_each_layer_once_in_turn_and_nothing_once_removed(depth):
    unet, seen = longhand.make_unet(depth=depth), []
    before = longhand.snapshot(unet)
    taps = Taps(find_blocks(unet), lambda block, layer, q, k, heads: seen.append((block.name, layer, q, k)))
    arguments = longhand.inputs(2, (8, 12))
    with longhand.watch(unet) as watched, torch.no_grad():
        longhand.run(unet, *arguments)
    names = [(name, layer) for name in longhand.transformers(unet) for layer in range(depth)]
    assert [(name, layer) for name, layer, _, _ in seen] == names and len(names) == 7 * depth
    for name, layer, q, k in seen:
        module, x, context = watched[name].attentions[layer]
        # not module.to_q(x): that would be seen as well
        assert_near(q, x @ module.to_q.weight.T, PRODUCT)
        assert_near(k, context @ module.to_k.weight.T, PRODUCT)
    taps.remove()
    taps.remove()
    assert longhand.snapshot(unet) == before
    longhand.run(unet, *arguments)
    assert len(seen) == len(names)
