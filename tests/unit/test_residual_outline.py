"""A residual's outline: its shapes without its values, for the cards of many files."""

import pytest
from residual_samples import HEADER, refusal, small_unet, tensors, with_value, write

from lib_persres.errors import PersresError
from lib_persres.residual import Residual


def test_an_outline_has_no_values_and_is_checked_like_the_residual_itself(residual, path):
    residual.save(path)
    outline = Residual.outline(path)
    assert outline.metadata == Residual.load(path).metadata
    assert all(factors.down.is_meta and factors.up.is_meta for factors in outline.factors.values())
    outline.check(small_unet())
    with pytest.raises(PersresError, match="rex was trained for another model"):
        outline.check(small_unet(width=12), "rex")


@pytest.mark.parametrize("changes", [{"up": None}, {"down": with_value(1).int()}, {"stray": with_value(1)}])
def test_wrong_tensors_are_refused_as_load_refuses_them(path, changes):
    write(path, tensors(**changes), HEADER)
    assert refusal(path, Residual.outline) == refusal(path)


def test_values_are_not_read(path):
    write(path, tensors(down=with_value(float("nan"))), HEADER)
    assert Residual.outline(path).factors
