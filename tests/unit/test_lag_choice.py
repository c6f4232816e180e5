"""LAG on, off or as the prompt's words say."""

import pytest

from lib_persres.concept_tokens import ConceptTokens
from lib_persres.concepts import decide
from lib_persres.errors import PersresError
from lib_persres.lag_choice import lag_choice
from lib_persres.metadata import Metadata
from lib_persres.prompt import read_tag, substitute

LENT = {
    "a house in the style of V*": "in the style of V*",
    "a house in the style of a V* dog": "in the style of V*",
    "a cake in the artistic style of my V* dog, at noon": "in the artistic style of V*",
    "a cake with the texture of V*": "with the texture of V*",
    "a robot in the colors of the V* dog": "in the colors of V*",
    "a robot, inspired by V* dog": "inspired by V*",
    "a V* style house": "V* style",
    "a V*-style house": "V*-style",
    "a V* dog style house": "V* style",
    "a V*-inspired chair": "V*-inspired",
    "a house in the style of (V* dog:1.2)": "in the style of V*",
    "a house in the style of [V*]": "in the style of V*",
    'a house in the style of "V*"': "in the style of V*",
    "a house in V*'s style": "V*'s style",
    "a house, V*  style": "V* style",
    "a house, V*\nstyle": "V* style",
    "a house in the style of a cute V* dog": "in the style of V*",
    "a house in the style of our V* dog": "in the style of V*",
    "a house painted like V*": "painted like V*",
    "a house in the look and feel of V*": "in the look and feel of V*",
    "a (V*-coloured) house": "V*-coloured",
    "a hat in the pattern of V* and a bag in the style of V*": "in the pattern of V*",
}
OWN = [
    "a photo of a V* dog",
    "a painting of a V* dog in the style of Monet",
    "a V* dog in a coloured hat",
    "a V* dog and a house in the style of V*",  # the dog is there itself
    "a red V* dog",
    "a V* dog, watercolour style",
    "a stylish V* dog",
    "a V* dogstyle",
    "in the style of Dali, V* dog",
    "a picture of V*",
    "a V* dog looks at the camera",
    "a V* dog looks happy",
    "a V* dog inspired by Van Gogh",
    "a V* dog styled like a pirate",
    "a V* dog colored pencil drawing",
    "a close-up of the fur texture of a V* dog",
    "the happy look of a V* dog",
    "the colors of my V* dog glow",
    "a V* dog patterned by shadows",
]


def lent(prompt):
    return substitute(prompt, ["olis"], ["dog"]).lent(0, "dog", "V*")


@pytest.mark.parametrize("prompt", LENT)
def test_a_look_that_is_lent_is_told_by_its_words(prompt):
    assert lent(prompt) == lent(prompt.replace("V*", "olis")) == LENT[prompt]
    assert lent(prompt.replace(" of ", "\n of  ")) == LENT[prompt]


@pytest.mark.parametrize("prompt", OWN)
def test_a_thing_that_is_there_itself_lends_nothing(prompt):
    assert lent(prompt) == ""


def test_each_concept_is_asked_about_its_own_words():
    written = substitute("a V1* dog in the style of V2* cat", ["olis", "olis"], ["dog", "cat"])
    assert [written.lent(0, "dog", "V1*"), written.lent(1, "cat", "V2*")] == ["", "in the style of V2*"]


def test_in_a_list_all_do_what_the_first_does():
    both, apart = (
        substitute(f"a house in the style of V1* dog {between} V2* cat", ["olis", "olis"], ["dog", "cat"])
        for between in ("and", "beside a")
    )
    assert [both.lent(0, "dog", "V1*"), both.lent(1, "cat", "V2*")] == ["in the style of V1*", "in the style of V2*"]
    assert [apart.lent(0, "dog", "V1*"), apart.lent(1, "cat", "V2*")] == ["in the style of V1*", ""]
    things = substitute("a photo of V1* dog and V2* cat", ["olis", "olis"], ["dog", "cat"])
    assert [things.lent(0, "dog", "V1*"), things.lent(1, "cat", "V2*")] == ["", ""]
    many = substitute("in the style of " + "V1* and V2*, " * 5000, ["olis", "olis"], ["dog", "cat"])
    assert many.lent(1, "cat", "V2*") == "in the style of V2*"


def test_a_long_prompt_is_read_in_no_time():
    assert lent("a photo in the style of " * 20_000 + "V* dog") == "in the style of V*"
    assert lent("the of " * 20_000 + "V* dog") == ""


def use(lag, *arguments, words="in the style of V*"):
    facts = Metadata(identifier="olis", macro_class="dog", targets="proj_out")
    found = ConceptTokens((5, 6), own=(5,))
    return decide(read_tag(["rex", *arguments]), facts, [found], lag=lag, lent=words)


def test_auto_confines_what_lends_nothing_and_says_what_it_decided():
    own, lends = use("auto", words=""), use("auto")
    assert own.gated and own.decided == "on" and not own.sentences
    assert not lends.gated and lends.strength == 1 and lends.decided == 'off, "in the style of V*"'
    assert lends.sentences == (
        '"in the style of V*" lends the look of <persres:rex>, so LAG auto leaves it everywhere; lag=on confines it.',
    )


def test_the_tag_and_an_open_choice_ask_nobody():
    for lag, tag in ((True, ()), ("on", ()), ("auto", ("lag=on",)), ("off", ("lag=ON",))):
        assert use(lag, *tag).gated and not use(lag, *tag).decided
    for lag, tag in ((False, ()), ("off", ()), ("auto", ("lag=off",))):
        assert not use(lag, *tag).gated and not use(lag, *tag).decided
    assert use(True, "lag=auto").decided == 'off, "in the style of V*"'


@pytest.mark.parametrize("value", ["maybe", "", "On", None, 1, 0.5, [], "x" * 1000])
def test_other_choices_are_refused(value):
    with pytest.raises(PersresError, match="LAG can be on, off or auto"):
        lag_choice(value)
