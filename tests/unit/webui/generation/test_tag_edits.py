"""Tags with other names and strengths; no WebUI is needed for it."""

import pytest

from lib_persres.webui.generation.tag_edits import has_tag, with_residual, with_strength, without_lag


def test_the_first_tag_is_renamed_or_one_is_added():
    prompt = "a <lora:x:1> <persres:rex:0.8:lag=on> and <persres:mia>"
    assert with_residual(prompt, "max") == "a <lora:x:1> <persres:max:0.8:lag=on> and <persres:mia>"
    assert with_residual("a V* dog", "max") == "a V* dog <persres:max>"
    assert with_residual("a <persres:lag=on:rex>", "deep/max") == "a <persres:lag=on:deep/max>"
    assert with_residual(r"<persres:rex>", r"a\1") == r"<persres:a\1>"


@pytest.mark.parametrize(
    "before, after",
    [
        ("<persres:rex>", "<persres:rex:0.25>"),
        ("<persres:rex:1.0>", "<persres:rex:0.25>"),
        ("<persres:rex:lag=on>", "<persres:rex:0.25:lag=on>"),
        ("<persres:rex:1:hr=2> <persres:mia:1>", "<persres:rex:0.25:hr=2> <persres:mia:1>"),
        ("<persres:hr=2:rex>", "<persres:hr=2:rex:0.25>"),
        ("a dog", "a dog"),
    ],
)
def test_the_first_tag_gets_the_strength(before, after):
    assert with_strength(before, 0.25) == after


def test_lag_is_taken_out_of_every_tag():
    assert without_lag("<persres:rex:1:lag=on:hr=1> <persres:mia: lag =off> <lora:lag:lag=on>") == (
        "<persres:rex:1:hr=1> <persres:mia> <lora:lag:lag=on>"
    )


def test_a_tag_is_seen():
    assert has_tag("a <persres:rex>") and not has_tag("a <lora:persres:1> persres:rex")
