"""Text and image alignment against their closed forms."""

import math

import pytest
import torch

from lib_persres.evaluation.scores.alignment import (
    class_text,
    image_alignment,
    image_alignment_of_each,
    text_alignment,
    text_alignment_of_each,
)


def at(*degrees):
    """Vectors in the plane, of different lengths."""
    return torch.tensor([[(i + 2) * math.cos(math.radians(d)), (i + 2) * math.sin(math.radians(d))]
                         for i, d in enumerate(degrees)])  # fmt: skip


def test_text_alignment_is_2_5_times_the_cosine_and_never_negative():
    each = text_alignment_of_each(at(0, 60, 120, 180), at(0))
    assert each.tolist() == pytest.approx([2.5, 1.25, 0, 0], abs=1e-6)
    assert text_alignment(at(0, 60, 120, 180), at(0)) == pytest.approx(3.75 / 4)
    assert text_alignment(at(0, 90), at(60, 90)) == pytest.approx((1.25 + 2.5) / 2)


def test_image_alignment_is_the_mean_cosine_over_all_pairs_negative_ones_too():
    generated, references = at(0, 180), at(0, 60, 90)
    assert image_alignment_of_each(generated, references).tolist() == pytest.approx([0.5, -0.5])
    assert image_alignment(at(0), references) == pytest.approx((1 + 0.5 + 0) / 3)
    assert image_alignment(generated, references) == pytest.approx(0)


def test_bad_embeddings_are_refused():
    with pytest.raises(ValueError, match="finite"):
        image_alignment(torch.tensor([[float("nan"), 1.0]]), at(0))
    with pytest.raises(ValueError, match="n > 0"):
        image_alignment(torch.empty(0, 2), at(0))
    with pytest.raises(ValueError, match="3 pictures and 2 texts"):
        text_alignment(at(0, 1, 2), at(0, 1))


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("a photo of a V* dog on the beach", "a photo of a dog on the beach"),
        ("V1* dog and a V2* cat", "dog and a cat"),
        ("a dog", "a dog"),
        ("a V*", "a"),
        ("EV* and V*s", "EV* and V*s"),
    ],
)
def test_the_text_that_clip_sees_has_the_class_word_and_no_identifier(prompt, text):
    assert class_text(prompt) == text
