"""Text and image alignment against their closed forms."""

import math

import pytest
import torch

from lib_persres.evaluation.scores.alignment import image_alignment, text_alignment


def at(*degrees):
    """Vectors in the plane, of different lengths."""
    return torch.tensor([[(i + 2) * math.cos(math.radians(d)), (i + 2) * math.sin(math.radians(d))]
                         for i, d in enumerate(degrees)])  # fmt: skip


def test_text_alignment_is_2_5_times_the_cosine_and_never_negative():
    each = text_alignment(at(0, 60, 120, 180), at(0))
    assert each.tolist() == pytest.approx([2.5, 1.25, 0, 0], abs=1e-6)
    assert text_alignment(at(0, 90), at(60, 90)).tolist() == pytest.approx([1.25, 2.5])


def test_image_alignment_is_the_mean_cosine_over_all_pairs_negative_ones_too():
    generated, references = at(0, 180), at(0, 60, 90)
    assert image_alignment(generated, references).tolist() == pytest.approx([0.5, -0.5])


def test_bad_embeddings_are_refused():
    with pytest.raises(ValueError, match="finite"):
        image_alignment(torch.tensor([[float("nan"), 1.0]]), at(0))
    with pytest.raises(ValueError, match="n > 0"):
        image_alignment(torch.empty(0, 2), at(0))
    with pytest.raises(ValueError, match="3 pictures and 2 texts"):
        text_alignment(at(0, 1, 2), at(0, 1))
