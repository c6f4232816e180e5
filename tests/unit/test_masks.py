"""Masks as objects: what they see, when, and that a call of the UNet waits for none of them."""

import longhand
import pytest
import torch
from branch_calls import lag_plan, lag_uses, output, plain_plan, residuals_for
from longhand import inputs, run
from pretended_card import CARD, Outside
from standalone_models import UNET

from lib_persres.branch import Branches
from lib_persres.errors import PersresError
from lib_persres.masks import MASKS, Mask, above_median, check_mask
from lib_persres.plan import Plans, Row, guidance_rows
from lib_persres.residual import Residual
from lib_persres.standalone.modules import build_unet

# -- the paper's


def test_above_median_by_hand():
    maps = torch.tensor([[0.1, 0.7, 0.3, 0.2], [4.0, 1.0, 2.0, 3.0]])
    assert above_median(maps).tolist() == [[0, 1, 1, 0], [1, 0, 0, 1]]
    # five values: the median, 0.3, is not above itself
    assert above_median(torch.tensor([0.5, 0.3, 0.1, 0.4, 0.2])).tolist() == [1, 0, 0, 1, 0]
    # ties with the median stay out
    assert above_median(torch.tensor([1.0, 1.0, 1.0, 2.0])).tolist() == [0, 0, 0, 1]
    assert above_median(torch.zeros(4)).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("pixels", [2, 63, 64, 96])
def test_above_median_selects_half_of_distinct_values_and_the_highest_ones(pixels):
    generator = torch.Generator().manual_seed(pixels)
    maps = torch.stack([torch.randperm(pixels, generator=generator) for _ in range(6)]).view(2, 3, pixels)
    maps = maps / pixels
    masks = above_median(maps)
    assert set(masks.unique().tolist()) <= {0.0, 1.0}
    assert (masks.sum(-1) == pixels // 2).all()
    assert torch.equal(masks, (maps * pixels >= pixels - pixels // 2).float())


def test_every_mask_is_made_anew_for_a_sampling():
    for name, make in MASKS.items():
        check_mask(name)
        assert isinstance(make(), Mask) and make() is not make()
    with pytest.raises(PersresError, match="no mask 'nothing'; the masks are: fitted, median"):
        check_mask("nothing")


# -- other kinds


class Disc(Mask):
    """Looks at nothing."""

    def asks(self, block, gated):
        return ()

    def gate(self, view):
        h, w = view.size
        y, x = (torch.linspace(-1, 1, side, device=view.device) for side in (h, w))
        disc = (y[:, None] ** 2 + x**2 < 0.5).float()
        return disc.flatten().expand(view.shape)


class Voted(Mask):
    """Fuses the maps of all blocks of this and the last step, lets one block's self-attention vote, and lets concepts
    compete: wide in the first half, tight in the second."""

    def __init__(self):
        self.before, self.now, self.votes, self.done = {}, {}, {}, None
        self.events = []

    def asks(self, block, gated):
        return ("attn1", "attn2") if block.name == "middle_block.1" else ("attn2",)

    def begin(self, step, done):
        self.before, self.now = ({} if step == 0 else self.now), {}
        self.votes, self.done = ({} if step == 0 else self.votes), done
        self.events.append(("begin", step, done))

    def see(self, view, maps):
        self.events.append(("see", view.block))
        assert maps.shape == view.shape
        peak = maps.amax(-1, keepdim=True).clamp_min(1e-6)
        for row, part in zip(view.rows, maps / peak):
            self.now[view.block, row] = part.unflatten(-1, view.size)

    def see_self(self, view, layer, q, k, heads):
        self.events.append(("self", view.block))
        q, k = (tensor.unflatten(-1, (heads, -1)).transpose(1, 2) for tensor in (q, k))
        scores = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1).mean(1)
        self.votes |= {row: (view.size, score) for row, score in zip(view.rows, scores)}

    def gate(self, view):
        self.events.append(("gate", view.block, view.rows))
        return torch.stack([self._row(view, row) for row in view.rows])

    def _row(self, view, row):
        kept = {**self.before, **self.now}
        size, votes = self.votes.get(row, (view.size, None))
        maps = [
            torch.nn.functional.interpolate(part[None], size=size, mode="bilinear")[0]
            for (_, whose), part in kept.items()
            if whose == row
        ]
        fused = torch.stack(maps).mean(0).flatten(1)
        if votes is not None:
            fused = fused @ votes.transpose(-1, -2)
        fused = torch.nn.functional.interpolate(fused.unflatten(-1, size)[None], size=view.size)[0].flatten(1)
        on = view.active[view.rows.index(row)]
        best = fused.amax(0) if sum(on) > 1 else fused.new_zeros(())
        level = 0.5 if self.done is None or self.done < 0.5 else 0.8
        return ((fused >= best) & (fused > level * fused.mean(-1, keepdim=True))).float()


def of_one_block(unet):
    (residual,) = residuals_for(unet, 1)
    target = "middle_block.1.proj_out"
    return Residual({target: residual.factors[target]})


def test_a_disc_needs_no_attention_and_acts_in_the_middle_alone(unets):
    unet, arguments = unets(), inputs(4, (8, 8))
    attentions = [module for name, module in unet.named_modules() if "attn" in name]
    with Branches(unet, residuals_for(unet, 1), Disc()) as branches, torch.no_grad():
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in attentions)
        branches.plan = lag_plan(1)
        with longhand.watch(unet) as seen:
            disc = run(unet, *arguments)
    first = next(iter(seen))
    with longhand.watch(unet) as base:
        output(unet, arguments)
    changed = (seen[first].out - base[first].out).abs().sum(1)  # (rows, h, w)
    assert (changed[:, 0] == 0).all() and (changed[:, :, -1] == 0).all() and (changed[:, 3:5, 3:5] > 0).all()
    assert not torch.equal(disc, output(unet, arguments, residuals_for(unet, 1), plain_plan(4)))


def test_a_mask_sees_the_attentions_it_asks_for_in_order_of_every_block_and_gates_where_there_is_something(unets):
    unet = unets("conv, two layers")
    blocks = list(longhand.transformers(unet))
    mask, rows = Voted(), (Row(0, 0), Row(1, 0))
    with Branches(unet, [of_one_block(unet)], mask) as branches, torch.no_grad():
        for step in range(2):
            branches.begin(step, step / 2)
            branches.plan = lag_plan(1)
            run(unet, *inputs(4, seed=step))
    middle = blocks.index("middle_block.1")
    gated = [("self", blocks[middle])] * 2 + [("see", blocks[middle]), ("gate", blocks[middle], rows)]
    once = [*(("see", name) for name in blocks[:middle]), *gated, *(("see", name) for name in blocks[middle + 1 :])]
    assert mask.events == [("begin", 0, 0.0), *once, ("begin", 1, 0.5), *once]


def test_a_mask_with_a_memory_acts_otherwise_in_a_later_step_and_anew_in_another_sampling(unets):
    unet, arguments = unets(), inputs(4, (8, 8), seed=3)
    residuals, mask, made = residuals_for(unet, 2), Voted(), []
    with Branches(unet, residuals, mask) as branches, torch.no_grad():
        for step in (0, 1, 0):
            branches.begin(step, step / 2)
            branches.plan = lag_plan(2)
            made.append(run(unet, *arguments))
    assert torch.equal(made[0], made[2]) and not torch.equal(made[0], made[1])


@pytest.mark.parametrize("mask", [Voted, *MASKS.values()])
def test_an_evaluation_cut_into_calls_is_the_same(unets, mask):
    unet = unets()
    residuals, (x, t, context) = residuals_for(unet, 2), inputs(4, (8, 8), seed=3)

    def evaluate(calls):
        out = {}
        with Branches(unet, residuals, mask()) as branches, torch.no_grad():
            for step in range(2):
                branches.begin(step, step / 2)
                plans = Plans(lag_uses(2))
                for rows in calls:
                    places = [guidance_rows(2).index(row) for row in rows]
                    branches.plan = plans.plan(rows, longhand.TOKENS)
                    made = run(unet, x[places], t[places], context[places])
                    out |= {(step, row): part for row, part in zip(rows, made)}
        return out

    whole = evaluate([guidance_rows(2)])
    for calls in ([[row] for row in guidance_rows(2)], [[Row(1, 0)], [Row(0, 0), Row(1, None)], [Row(0, None)]]):
        for key, part in evaluate(calls).items():
            assert (part - whole[key]).abs().max() < 1e-4


# -- no waiting


class Reading(Disc):
    def gate(self, view):
        disc = super().gate(view)
        return disc * disc.max().item()


class Bringing(Disc):
    def gate(self, view):
        return super().gate(view) * torch.ones(view.shape).to(view.device)


ROWS = {
    "guidance": guidance_rows(2),
    "mixed": [Row(0, None), Row(1, 0), Row(1, None), Row(0, 0)],
    "unknown": [None, Row(0, 0), Row(1, 0)],
}


def outside(mask, rows) -> list[str]:
    """What a call under LAG does outside of the card, from the second on: the first brings the factors over."""
    with CARD:
        unet = build_unet(UNET)
    residuals = [residuals_for(longhand.make_unet(), 2)[k] for k in range(2)]
    uses = lag_uses(2, gated=[True, False])
    uses[0][1], uses[1][1] = uses[1]  # concepts of both kinds in each image
    with Branches(unet, residuals, mask) as branches, torch.no_grad():
        for step in range(2):
            branches.begin(step, step / 2)
            branches.plan = Plans(uses).plan(rows, longhand.TOKENS, CARD)
            x, t, context = (tensor.to(CARD) for tensor in inputs(len(rows)))
            with Outside() as seen:
                out = unet(x, t, context)
    assert out.device == CARD
    return seen.seen


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("mask", [Voted, Disc, *MASKS.values()])
def test_a_call_under_lag_never_waits_for_the_card(mask, rows):
    assert outside(mask(), ROWS[rows]) == []


def test_a_mask_that_waits_is_seen():
    with pytest.raises(RuntimeError, match="meta tensors"):
        outside(Reading(), ROWS["guidance"])
    assert outside(Bringing(), ROWS["guidance"]) != []
