"""Which row of a UNet's call is whose; no WebUI is needed for it."""

import torch

from lib_persres.plan import Row
from lib_persres.webui.generation.rows import Rows, context_of


def contexts(*seeds, tokens=77):
    return torch.stack([torch.randn(tokens, 4, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


ONE = [(0, 0), (0, None)]
TWO = [(0, 0), (1, 0), (0, None), (1, None)]
AND = [(0, 0), (0, 1), (1, 0), (0, None), (1, None)]
PAIRS = [(0, 0), (0, 1), (1, 0), (1, 1), (0, None), (1, None)]
C0, C1, U0, U1 = Row(0, 0), Row(1, 0), Row(0, None), Row(1, None)


def test_the_usual_call():
    cond, uncond = contexts(1, 2), contexts(9, 9)
    assert Rows(TWO, cond, uncond).identify(torch.cat([cond, uncond])) == [C0, C1, U0, U1]


def test_images_with_the_same_prompt_are_told_by_their_order():
    cond, uncond = contexts(1, 1), contexts(1, 1)
    rows = Rows(TWO, cond, uncond)
    assert rows.identify(cond[:1]) == [C0]
    assert rows.identify(torch.cat([cond[1:], uncond[:1]])) == [C1, U0]
    assert rows.identify(uncond[1:]) == [U1]


def test_where_the_host_says_which_rows_are_conditional_a_negative_prompt_of_the_same_words_is_told_apart():
    cond, uncond = contexts(1, 2), contexts(1, 2)
    call = torch.cat([uncond, cond])
    kinds = [False, False, True, True]
    assert Rows(TWO, cond, uncond).identify(call, kinds) == [U0, U1, C0, C1]
    assert Rows(TWO, cond, uncond).identify(call * 1.1, kinds) == [U0, U1, C0, C1]
    rows = Rows(TWO, cond, uncond)  # in two calls
    assert [rows.identify(uncond, kinds[:2]), rows.identify(cond, kinds[2:])] == [[U0, U1], [C0, C1]]


def test_a_call_for_some_rows_has_its_share_of_all_that_the_call_was_told():
    cond, uncond = contexts(1, 2), contexts(9, 9)
    rows = Rows(TWO, cond, uncond)
    told = {"control": {"middle": [torch.arange(4), None]}, "transformer_options": {"kinds": [1, 0]}}
    x, t = torch.arange(4)[:, None], torch.arange(4)
    args, kwargs = rows.instead([C1], [U0, U1, C0, C1], (x, t), {"context": torch.cat([uncond, cond]), **told})
    assert torch.equal(kwargs["context"], cond[1:]) and args[0].tolist() == [[1]]
    assert kwargs["control"]["middle"][0].tolist() == [1]
    kwargs["control"]["middle"].pop()  # as the UNet does
    assert len(told["control"]["middle"]) == 2


def test_unconds_may_be_left_out_or_come_first_and_parts_are_counted():
    cond, uncond = contexts(1, 2, 3), contexts(8, 9)
    assert Rows(AND, cond, uncond).identify(cond) == [Row(0, 0), Row(0, 1), Row(1, 0)]
    rows = Rows(AND, cond, uncond)
    assert rows.identify(uncond) == [U0, U1]
    assert rows.identify(cond[[2, 0]]) == [Row(1, 0), Row(0, 0)]


def test_padded_and_cut_contexts_are_known():
    cond, uncond = contexts(1, tokens=154), contexts(9)
    padded = torch.cat([uncond, contexts(5)], dim=1)
    assert Rows(ONE, cond, uncond).identify(torch.cat([cond, padded])) == [C0, U0]
    assert Rows(ONE, uncond, cond).identify(torch.cat([uncond, cond[:, :77]])) == [C0, U0]


def test_contexts_that_another_extension_changed_are_told_by_their_order():
    cond, uncond = contexts(1, 2), contexts(9, 9)
    call = torch.cat([cond, uncond])
    assert Rows(TWO, cond, uncond).identify(call * 1.1) == [C0, C1, U0, U1]
    call[2:] *= 1.1
    assert Rows(TWO, cond, uncond).identify(call) == [C0, C1, U0, U1]


def test_a_call_beyond_the_announced_ones():
    cond, uncond = contexts(1), contexts(9)
    rows = Rows(ONE, cond, uncond)
    rows.identify(torch.cat([cond, uncond]))
    assert rows.identify(torch.cat([uncond, cond, contexts(4)])) == [U0, C0, None]


def test_half_precision_contexts_are_known():
    cond, uncond = contexts(1), contexts(9)
    assert Rows(ONE, cond, uncond).identify(torch.cat([uncond, cond]).half()) == [U0, C0]


# -- other rows instead


def test_a_call_can_be_made_for_other_rows_of_its_images_whatever_form_its_arguments_have():
    cond, uncond, vectors = contexts(1, 2, 3, 4), contexts(9, 9), torch.arange(8.0).view(4, 2)
    rows = Rows(PAIRS, cond, uncond, vectors)
    # one call has the first part of the second image, and the first image's unconditional row
    here, wanted = [Row(1, 0), Row(0, None)], [Row(0, 1), Row(1, 1)]
    x, t, y, context = torch.rand(2, 4, 8, 8), torch.tensor([7, 8]), torch.rand(2, 2).half(), cond[[2, 0]].half()
    control = [torch.rand(1)]
    for args, kwargs in (
        ((x, t), {"context": context, "y": y, "control": control}),
        ((x, t, context), {"y": y, "control": control}),
        ((x, t, context, y), {"control": control}),
    ):
        assert context_of(args, kwargs) is context
        (own_x, own_t), own = rows.instead(wanted, here, args, kwargs)
        assert torch.equal(own_x, x[[1, 0]]) and own_t.tolist() == [8, 7]
        assert torch.equal(own["context"], cond[[1, 3]].half()) and own["control"] == control
        assert torch.equal(own["y"], vectors[[1, 3]].half())
