import torch

from lib_persres.conditioning import Conditioning, joined


def rows(count, vectors=True):
    context = torch.arange(count * 6.0).view(count, 3, 2)
    return Conditioning(context, torch.arange(count * 2.0).view(count, 2) if vectors else None)


def test_rows_are_picked_of_context_and_vectors_alike():
    picked = rows(3)[torch.tensor([2, 0, 0])]
    assert len(picked) == 3 and picked.length == 3
    assert torch.equal(picked.context, rows(3).context[[2, 0, 0]]) and torch.equal(
        picked.vectors[:, 0], torch.tensor([4.0, 0, 0])
    )


def test_a_unet_is_told_of_vectors_only_where_there_are_some():
    assert list(rows(1).arguments()) == ["context", "y"]
    assert list(rows(1, vectors=False).arguments()) == ["context"]


def test_joined_rows_are_all_rows_in_a_row():
    both = joined([rows(2), rows(1).expand(2)])
    assert len(both) == 4 and torch.equal(both[2:].vectors, rows(1).vectors.expand(2, -1))
    assert joined([rows(2, vectors=False)]).vectors is None


def test_what_is_detached_to_learn_gathers_its_own_gradients():
    given = rows(2)
    leaves = given.detach().requires_grad_()
    (leaves.context.sum() + 2 * leaves.vectors.sum()).backward()
    assert torch.equal(leaves.context.grad, torch.ones(2, 3, 2)) and torch.equal(
        leaves.vectors.grad, 2 * torch.ones(2, 2)
    )
    assert given.vectors.grad is None


def test_one_number_that_is_not_finite_shows():
    spoiled = rows(2)
    spoiled.vectors[1, 0] = float("nan")
    assert rows(2).is_finite() and not spoiled.is_finite()
