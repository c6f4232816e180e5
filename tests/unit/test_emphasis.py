"""The WebUI's emphasis outside of the WebUI: which words count how much, and where LAG's tokens then are."""

import pytest

pytest.importorskip("ldm")

import torch
from longhand import random_residual

from lib_persres import emphasis
from lib_persres.emphasis import parts_of
from lib_persres.errors import PersresError
from lib_persres.prompt import Occurrence, Substituted
from lib_persres.standalone.emphasis import emphasized, not_understood
from lib_persres.standalone.generate import generate

# As the WebUI's parse_prompt_attention documents itself.
DOCUMENTED = {
    "normal text": [("normal text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "(unbalanced": [("unbalanced", 1.1)],
    r"\(literal\]": [("(literal]", 1.0)],
    "(unnecessary)(parens)": [("unnecessaryparens", 1.1)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1.0),
        ("house", 1.573),
        (" ", 1.1),
        ("on", 1.0),
        (" a ", 1.1),
        ("hill", 0.55),
        (", sun, ", 1.1),
        ("sky", 1.4641),
        (".", 1.1),
    ],
}


def read(text):
    return [(part.written.text, part.weight) for part in parts_of(Substituted(text, []))]


@pytest.mark.parametrize("text", DOCUMENTED)
def test_prompts_are_read_as_the_webui_documents(text):
    found, expected = read(text), DOCUMENTED[text]
    assert [part for part, _ in found] == [part for part, _ in expected]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected])


def test_brackets_of_two_kinds_may_cross_and_colons_are_words_elsewhere():
    assert [part for part, _ in read("(a[b)c]")] == ["a", "b", "c"]
    assert [weight for _, weight in read("(a[b)c]")] == pytest.approx([1.1, 1, 1 / 1.1])
    assert read("at 10:30") == [("at 10:30", 1.0)] and read("") == []
    assert read("(x: 2 )") == [("x", 2.0)] and read("x:2)") == [("x:2)", 1.0)]


@pytest.mark.parametrize("text", ["(x:1.2.3)", "(x:.)", "(" * 9000 + "x", "(x:" + "9" * 400 + ")"])
def test_a_weight_that_is_none_is_refused(text):
    with pytest.raises(PersresError, match="emphasis"):
        parts_of(Substituted(text, []))


def test_uses_keep_their_places():
    text = "a (olis dog:1.3) and [the olis]"
    uses = [Occurrence(0, 3, 7), Occurrence(1, 26, 30)]
    assert [text[use.start : use.end] for use in uses] == ["olis", "olis"]
    for part in parts_of(Substituted(text, uses)):
        for use in part.written.uses:
            assert part.written.text[use.start : use.end] == "olis"
    assert [use.concept for part in parts_of(Substituted(text, uses)) for use in part.written.uses] == [0, 1]


def test_the_work_grows_as_the_prompt_does(monkeypatch):
    def pieces(text):
        counted = []
        original = emphasis._PIECES

        class Counting:
            def finditer(self, text):
                for match in original.finditer(text):
                    counted.append(match)
                    yield match

        monkeypatch.setattr(emphasis, "_PIECES", Counting())
        parts_of(Substituted(text, []))
        monkeypatch.setattr(emphasis, "_PIECES", original)
        return len(counted)

    for unit in ("[x", "x)", "[x]", "\\(", ":", ": 1"):
        assert pieces(unit * 400) <= 2 * pieces(unit * 200)


def test_the_mean_stays_as_in_the_webuis_original_emphasis():
    context = torch.randn(1, 77, 8, generator=torch.Generator().manual_seed(0)) + 1
    weights = torch.ones(1, 77)
    weights[0, 3:5] = 1.4
    found = emphasized(context, weights)
    changed = context * weights[..., None]
    torch.testing.assert_close(found, changed * (context.mean() / changed.mean()))
    assert emphasized(context, torch.ones(1, 77)) is context
    with pytest.raises(PersresError, match="too strong"):
        emphasized(context, weights * 1e38 * 1e2)


def draw(sd, prompt, **options):
    residual = random_residual(sd.unet, 2, 0)
    residual.metadata.identifier, residual.metadata.macro_class = "olis", "dog"
    residual.metadata.concept = "rex"
    return generate(sd, prompt, {"rex": residual}.__getitem__, width=16, height=16, steps=2, **options)


def test_emphasis_changes_the_picture_and_lag_finds_its_tokens(sd):
    plain = draw(sd, "<persres:rex>a photo of a V* dog in snow", lag=True)
    strong = draw(sd, "<persres:rex>a photo of a (V* dog:1.4) in snow", lag=True)
    apart = draw(sd, "<persres:rex>a photo of a (V*) [dog] in snow", lag=True)
    assert plain.uses[0].indices == strong.uses[0].indices == apart.uses[0].indices
    assert strong.masks is not None and not strong.problems and not apart.problems
    assert (plain.images - strong.images).abs().max() > 1e-4
    assert torch.equal(plain.images, draw(sd, "<persres:rex>a photo of a (V* dog:1.0) in snow", lag=True).images)


def test_emphasis_counts_in_the_negative_prompt_too(sd):
    first, second = (draw(sd, "a dog", negative=negative).images for negative in ("snow", "(snow:1.5)"))
    assert (first - second).abs().max() > 1e-5


def test_what_only_the_webui_knows_is_said(sd):
    assert not_understood("a (x:1.3) [y] [(z:1.2)] \\[a:b\\] at 10:30, R&AND") == [
        "AND was read as a word: only the WebUI knows it as a command."
    ]
    for text in ("[a:b:0.5]", "x [a|b|c] y", "[:b:3]", "[a::0.2]", "[(a:1.2):b:4]"):
        (sentence,) = not_understood(text)
        assert "read as words" in sentence and "[" in sentence
    made = draw(sd, "a dog AND a cat BREAK [a:b:0.5] <lora:x:1>", negative="<persres:rex> bad <lora:y:1>")
    *others, stray, _ = made.problems
    assert len(others) == 4 and all("was read as" in problem for problem in others)
    assert stray == '"<persres:rex>" in the negative prompt is no tag: write <persres:rex> into the prompt.'


def test_text_that_is_not_utf8_is_a_sentence(sd):
    for options in ({"prompt": "a \udcff dog"}, {"prompt": "a dog", "negative": "\udcff"}):
        with pytest.raises(PersresError, match="UTF-8"):
            draw(sd, **options)
