"""Templates hold the names that they may have, and nothing that str.format would make of braces."""

import pytest

from lib_persres.errors import PersresError
from lib_persres.evaluation.datasets.dataset import Prompt, check_prompt
from lib_persres.filling import fill
from lib_persres.training.recipe import Recipe
from lib_persres.webui.training.request import Request

BRACES = [
    "{identifier:>10000000000}",
    "{identifier:{macro_class}}",
    "{identifier.x}",
    "{identifier.__class__.__mro__}",
    "{identifier[0]}",
    "{identifier!r}",
    "{ identifier }",
    "{{identifier}}",
    "{}",
    "{0}",
    "{",
    "}",
    "}{",
    "{" * 300,
]


@pytest.mark.parametrize("braces", BRACES)
def test_other_braces_than_the_two_names_are_refused_in_one_sentence(braces):
    template = "a {identifier} {macro_class} " + braces
    with pytest.raises(PersresError, match="it can hold {identifier} and {macro_class} in braces") as error:
        Recipe("test", "", template=template).prompt("phol", "dog")
    assert "\n" not in str(error.value) and len(str(error.value)) <= 300
    with pytest.raises(PersresError, match="in braces, nothing else"):
        Request("rex", "dog", template=template)


def test_names_are_replaced_wherever_they_stand_and_what_they_become_is_not_read_again():
    recipe = Recipe("test", "", template="{identifier}{identifier}, {macro_class}")
    assert recipe.prompt("{macro_class}", "{x} \\1") == "{macro_class}{macro_class}, {x} \\1"
    assert fill("no place", {"a": "b"}) == "no place"


@pytest.mark.parametrize("text", ["{0:>10000000000}", "a {0.x}", "a {:9}", "a {!r}", "a {0[0]}", "a {x}", "a {", "{2}"])
def test_prompts_of_an_evaluation_have_places_for_concepts_alone(text):
    for fields in (1, 2):
        with pytest.raises(PersresError, match="has braces that cannot be filled in"):
            check_prompt(text, "prompts.txt, line 1", fields)
    assert Prompt("a {} and {0}").fill("V* dog") == "a V* dog and V* dog"
    assert Prompt("a {1} by {0}").fill("V1* dog", "V2* cat") == "a V2* cat by V1* dog"
