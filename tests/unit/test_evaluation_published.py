"""The published rows: whole, and in the orderings that the paper's text states."""

from lib_persres.evaluation import published
from lib_persres.evaluation.datasets import CATEGORIES, INDEPENDENT, MODIFYING


def test_ours_is_the_same_row_in_every_table():
    rows = [published.row("residual", table) for table in published.TABLES]
    assert {(r.clip_text, r.clip_image, r.dino_image) for r in rows} == {(0.7193, 0.7594, 0.5671)}
    assert {r.source for r in rows} == {published.PAPER} and len({r.table for r in rows}) == 4


def test_numbers_are_shares_and_keys_are_unique_in_a_table():
    for name, rows in published.TABLES.items():
        keys = [row.key for row in rows if row.key]
        assert len(keys) == len(set(keys))
        for row in rows:
            assert row.table == name and 0 < row.dino_image < row.clip_image < 0.85 and 0.6 < row.clip_text < 0.85


def test_the_orderings_of_the_text_hold_in_the_rows():
    base, ours, lag = (published.row(key) for key in ("base", "residual", "residual + LAG"))
    assert ours.clip_image > base.clip_image and ours.clip_text < base.clip_text
    assert lag.clip_text > ours.clip_text and lag.dino_image < ours.dino_image
    ranks = [published.row(f"rank-{rank}", "Table 5") for rank in (1, 8, 16, 32, 64, 128)]
    for low, high in zip(ranks, ranks[1:]):
        assert low.clip_text > high.clip_text and low.clip_image < high.clip_image and low.dino_image < high.dino_image
    bare = published.row("no-class", "Table 3")
    assert bare.clip_text < ours.clip_text and bare.clip_image < ours.clip_image
    assert published.row("nothing") is None


def test_the_categories_of_figure_5_are_the_evaluations():
    assert set(published.LAG_BETTER) == set(INDEPENDENT) and set(published.LAG_WORSE) == set(MODIFYING)
    assert len(CATEGORIES) == 6
