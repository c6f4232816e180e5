"""What a concept does in a picture, and what is said of it: the same whoever asks."""

from dataclasses import replace

import pytest

from lib_persres.concept_tokens import ConceptTokens
from lib_persres.concepts import Use, decide
from lib_persres.metadata import Metadata
from lib_persres.prompt import read_tag

REX = Metadata(concept="rex", identifier="olis", macro_class="dog", targets="proj_out")
FOUND = ConceptTokens((5, 6), own=(5,))
ALONE = ConceptTokens((5,), class_found=False, own=(5,))
ABSENT = ConceptTokens((), identifier_found=False, class_found=False)
TWIN = ConceptTokens((), class_found=False, shared=True)


def use(found=FOUND, *arguments, facts=REX, lag=True, **options):
    texts = found if isinstance(found, list) else [found]
    return decide(read_tag(["rex", *arguments]), facts, texts, lag=lag, **options)


def test_a_concept_that_the_prompt_names_acts_and_nothing_is_said():
    assert use() == Use(1.0, True, ((5, 6),))
    assert use(lag=False) == Use(1.0, False, ((5, 6),))


def test_the_tag_wins_over_the_default():
    assert not use(FOUND, "lag=off").gated and use(FOUND, "lag=on", lag=False).gated


def test_strength_and_time_are_the_tags_or_the_passs():
    assert use(FOUND, "0.8").strength == 0.8 and use(FOUND, "0.8", strength=0.3).strength == 0.3
    found = [use(FOUND, "0.8", "start=0.25", "end=0.75", done=done).strength for done in (0.0, 0.25, 0.74, 0.75)]
    assert found == [0.0, 0.8, 0.8, 0.0]


def test_at_strength_zero_nothing_is_said_and_nothing_confined():
    for found in (FOUND, ABSENT):
        assert use(found, "0") == use(found, strength=0.0) == Use(0.0, False, (found.indices,))


def test_sentences_are_the_same_at_every_time():
    early, late = (use(ABSENT, "start=0.5", done=done) for done in (0.0, 0.9))
    assert early.sentences == late.sentences != ()


def test_what_nothing_asks_for_is_left_out_under_lag_and_acts_everywhere_without():
    left = use(ABSENT, placeholder="V2*")
    assert left.strength == 0 and not left.gated
    assert left.sentences == (
        'V2* of <persres:rex> is not in the prompt, so LAG leaves the residual out; write "V2* dog".',
    )
    acts = use(ABSENT, lag=False, placeholder="V2*")
    assert acts.strength == 1
    assert acts.sentences == ("<persres:rex> acts, but its V2* is not in the prompt: nothing asks for the concept.",)


def test_a_concept_without_its_class_is_confined_by_the_identifier_alone():
    found = use(ALONE)
    assert found.gated and found.strength == 1
    assert found.sentences == (
        'V* of <persres:rex> is not followed by "dog", so LAG sees only the identifier; write "V* dog".',
    )
    assert use(ALONE, lag=False).sentences == ()
    assert use(ALONE, facts=replace(REX, macro_class="")).sentences == ()


def test_two_concepts_of_the_same_words_act_everywhere_and_are_told():
    found = use(TWIN)
    assert found.strength == 1 and not found.gated
    (sentence,) = found.sentences
    assert sentence.startswith('V* of <persres:rex> is the same word before the same class, "dog"')
    (sentence,) = use(replace(TWIN, identifier_found=False)).sentences  # it does not act at all
    assert "is not in the prompt" in sentence


@pytest.mark.parametrize("targets, what", [("kv", "kv, not proj_out"), ("unet", "the whole UNet")])
def test_what_lag_cannot_confine_acts_everywhere(targets, what):
    facts = replace(REX, targets=targets)
    sentence = f"LAG cannot confine <persres:rex>, which changes {what}: it acts everywhere."
    assert use(facts=facts, early=False) == Use(1.0, False, ((5, 6),), (sentence,))
    assert use(facts=facts).gated  # the fitted mask is there before a block's own
    absent = use(ABSENT, facts=facts, early=False)
    assert absent.strength == 1 and absent.sentences[0] == sentence and "nothing asks for" in absent.sentences[1]
    assert use(facts=facts, lag=False).sentences == ()


def test_a_file_without_an_identifier_acts_everywhere():
    facts = replace(REX, identifier="")
    found = use(ABSENT, facts=facts)
    assert found.strength == 1 and not found.gated
    (sentence,) = found.sentences
    assert sentence.startswith("The file of <persres:rex> names no identifier")
    assert use(ABSENT, facts=facts, lag=False).sentences == ()


def test_of_several_texts_one_that_has_the_concept_is_enough():
    found = use([ABSENT, FOUND], now=[ABSENT, ABSENT])
    assert found == Use(1.0, True, ((), ()))  # gated, and in no text of now: the plan leaves it out
    assert use([ABSENT, ALONE]).sentences == use([ALONE]).sentences
    assert use([ABSENT, ABSENT]).sentences == use([ABSENT]).sentences


def test_an_evaluation_past_the_announced_end_is_still_of_the_sampling():
    """Adaptive samplers do more of them than they said."""
    assert use(done=1.7).strength == 1
    assert use(FOUND, "end=0.9", done=1.7).strength == 0


@pytest.mark.parametrize(
    "end, several, what", [("0.2", True, "several concepts begin"), ("0.1", False, "a concept be")]
)
def test_one_that_ends_before_it_begins_is_told(end, several, what):
    (sentence,) = use(FOUND, f"end={end}", several=several).sentences
    assert sentence.startswith(f"<persres:rex:end={end}> does nothing: under LAG {what}")
    for quiet in ({"early": False}, {"lag": False}):
        assert use(FOUND, f"end={end}", several=several, **quiet).sentences == ()
    assert use(FOUND, "end=0.25", several=several).sentences == ()


def test_under_an_early_mask_one_that_begins_later_waits():
    found = use(FOUND, "start=0.4", done=0.3)
    assert found.strength == 0 and found.waits and found.gated
    assert not use(FOUND, "start=0.4", done=0.4).waits and not use(FOUND, "start=0.4", done=0.3, early=False).waits
    assert not use(FOUND, "start=0.4", done=0.3, lag=False).waits


def test_words_of_a_file_that_the_prompt_has_not_are_named():
    facts = replace(REX, identifier="cat", macro_class="")
    found = use(ABSENT, facts=facts, word="cat\nsofa")
    assert found.strength == 0
    (sentence,) = found.sentences
    assert sentence == (
        'The prompt has no "cat" and "sofa", where LAG looks for <persres:rex>, so it is left out; '
        "give a word that it has."
    )
    assert use(ABSENT, facts=facts, word="cat", lag=False) == Use(1.0, False, ((),))
