import pytest

from lib_persres import identifiers as I
from lib_persres import prompt as P
from lib_persres.concept_tokens import ConceptTokens, find_concept_tokens
from lib_persres.errors import PersresError

START, END = 49406, 49407


def chunked(*chunks):
    """Context ids: each chunk begins with the start token and is padded to 77 with the end token."""
    flat = []
    for chunk in chunks:
        flat += [START, *chunk] + [END] * (76 - len(chunk))
    return flat


@pytest.fixture
def encode(tokenizer):
    return tokenizer.encode


def is_one_sentence(error):
    text = str(error.value)
    return text.endswith(".") and "\n" not in text and len(text) < 400


# -- tags


def test_a_tag_is_taken_out_and_other_networks_stay():
    text, tags = P.parse_tags("<persres:rex:0.8> a V* dog <lora:style:0.5:dyn=1> (x:1.2)")
    assert text == " a V* dog <lora:style:0.5:dyn=1> (x:1.2)"
    assert tags == [P.Tag("rex", 0.8, text="<persres:rex:0.8>")]


def test_all_arguments_are_read_in_any_order():
    _, (tag,) = P.parse_tags("<persres:lag=ON:rex:0.8:end=0.9:hr=0:start=.2>")
    assert (tag.name, tag.strength, tag.lag, tag.hr, tag.start, tag.end) == ("rex", 0.8, "on", 0.0, 0.2, 0.9)


def test_defaults_of_a_tag_leave_lag_and_hires_open():
    _, (tag,) = P.parse_tags("<persres:my dog.v2>")
    assert (tag.name, tag.strength, tag.lag, tag.hr, tag.start, tag.end) == (
        "my dog.v2",
        1.0,
        None,
        None,
        0.0,
        1.0,
    )


def test_tags_keep_their_order_and_repetitions():
    _, tags = P.parse_tags("<persres:a:1.0:lag=on><persres:b>x<persres:a:-0.5>")
    assert [(t.name, t.strength, t.lag) for t in tags] == [
        ("a", 1.0, "on"),
        ("b", 1.0, None),
        ("a", -0.5, None),
    ]


def test_arguments_of_the_webui_give_the_same_tag():
    assert P.read_tag(["rex", "0.5", "lag=off"]) == P.parse_tags("<persres:rex:0.5:lag=off>")[1][0]


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ("<persres:>", "names no concept"),
        ("<persres: :1>", "names no concept"),
        ("<persres::0.5>", "names no concept"),
        ("<persres:lag=on>", "names no concept"),
        ("<persres:rex:strong>", "a finite number"),
        ("<persres:rex:>", "a finite number"),
        ("<persres:rex:nan>", "a finite number"),
        ("<persres:rex:-inf>", "a finite number"),
        ("<persres:rex:1e999>", "a finite number"),
        ("<persres:rex:1e30>", "from -100 to 100"),
        ("<persres:rex:1:hr=-1e30>", "from -100 to 100"),
        ("<persres:rex:1:2>", "after the strength"),
        ("<persres:rex:a=b=c>", "a finite number"),
        ("<persres:rex:1:mask=median>", "allowed are lag="),
        ("<persres:rex:1:=1>", "allowed are lag="),
        ("<persres:rex:1:lag=maybe>", "lag=on, lag=off and lag=auto"),
        ("<persres:rex:1:lag=on:lag=off>", "twice"),
        ("<persres:rex:1:hr=high>", "a finite number"),
        ("<persres:rex:1:start=-0.1>", "from 0 to 1"),
        ("<persres:rex:1:end=1.5>", "from 0 to 1"),
        ("<persres:rex:1:start=nan>", "from 0 to 1"),
        ("<persres:rex:1:start=0.5:end=0.5>", "start must be smaller"),
        ("<persres:rex:1:start=1>", "start must be smaller"),
        ("<persres:rex:\n" + "9" * 5000 + "x>", "a finite number"),
    ],
)
def test_a_bad_tag_is_refused_in_one_sentence_that_names_it(tag, said):
    with pytest.raises(PersresError) as error:
        P.parse_tags(f"a photo {tag} of a dog")
    assert said in str(error.value) and tag[:9] in str(error.value)
    assert is_one_sentence(error)


ODD = {
    "nothing": ("", "", []),
    "nested brackets": ("(((<persres:a>[[V* dog]])))", "((([[sks dog]])))", [0]),
    "unclosed tag": ("<persres:a V* dog", "<persres:a sks dog", [0]),
    "empty brackets": ("<> <:> <persres> V*", "<> <:> <persres> sks", [0]),
    "other networks": ("<lora:V*:1> <hypernet:sks> V*", "<lora:V*:1> <hypernet:sks> sks", [0]),
    "tag within a tag": ("<lora:<persres:a>:1> V*", "<lora:<persres:a>:1> sks", [0]),
    "unicode": ("café 犬 V* 🐕 <persres:ä ö>", "café 犬 sks 🐕 ", [0]),
    "glued": ("V*V*", "V*V*", []),
    "starred": ("**V* V**", "**V* sks*", [0]),
    "emphasis": ("(V* dog:1.3)", "(sks dog:1.3)", [0]),
    "schedule": ("[V* dog:cat:0.5]", "[sks dog:cat:0.5]", [0]),
    "AND": ("V* dog AND V2* cat", "sks dog AND olis cat", [0, 1]),
    "newline": ("V*\nV2*\r\n\tV1*", "sks\nolis\r\n\tsks", [0, 1, 0]),
    "inside words": ("MV*x V*x xV* V*_ v* V1 V", "MV*x V*x xV* V*_ v* V1 V", []),
    "punctuation": ('V*, V*\'s "V*" {V*}', 'sks, sks\'s "sks" {sks}', [0, 0, 0, 0]),
    "typed": ("a SKS dog, skser, asks, olis", "a SKS dog, skser, asks, olis", [0, 1]),
    "lookalike letters": ("ſks", "ſks", []),
    "leading zero": ("V01*", "sks", [0]),
    "two tags": ("<persres:a:1.0:lag=on><persres:b>V2* V1*", "olis sks", [1, 0]),
    "10k open brackets": ("<" * 10_000, "<" * 10_000, []),
    "10k open tags": ("<persres:" * 1111, "<persres:" * 1111, []),
    "10k placeholders": ("V* " * 3333, "sks " * 3333, [0] * 3333),
    "10k letters": ("V" * 10_000 + "*", "V" * 10_000 + "*", []),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_prompts_are_read_as_written(name):
    prompt, expected, concepts = ODD[name]
    text, _ = P.parse_tags(prompt)
    done = P.substitute(text, ["sks", "olis"], ["dog", "cat"])
    assert done.text == expected
    assert [use.concept for use in done.uses] == concepts
    for use in done.uses:
        assert done.text[use.start : use.end].lower() == ["sks", "olis"][use.concept]


# -- V*


def test_identifiers_are_written_literally():
    done = P.substitute("V* V2*", [r"\1", "V*"], ["dog", "cat"])
    assert done.text == r"\1 V*"


@pytest.mark.parametrize(
    ("text", "names", "said"),
    [
        ("V3*", ["<persres:a>"], "V3* stands for the third concept, but the prompt names only 1 concept: <persres:a>."),
        ("V3*", ["<persres:a:0.7>", "<persres:b>"], "names only 2 concepts: <persres:a:0.7>, <persres:b>."),
        ("V*", [], "V* stands for the first concept, but the prompt names no concept; add its tag"),
        ("V12*", ["<persres:a>"], "the 12th concept"),
        ("V0*", ["<persres:a>"], "V0*"),
        ("V000*", ["<persres:a>"], "V0*"),
        ("V" + "9" * 9999 + "*", ["<persres:a>"], "only 1 concept"),
    ],
)
def test_a_placeholder_without_a_concept_is_refused_by_what_the_user_wrote(text, names, said):
    with pytest.raises(PersresError) as error:
        P.substitute(text, ["sks"] * len(names), ["dog"] * len(names), names)
    assert said in str(error.value) and is_one_sentence(error) and "sks" not in str(error.value)


def test_one_wrong_number_is_told_alone_and_leaves_nothing():
    told = []
    done = P.substitute("V* dog, V3* bird, V2* cat, V0*", ["sks", "olis"], ["dog", "cat"], ["a", "b"], told.append)
    assert done.text == "sks dog,  bird, olis cat, " and [use.concept for use in done.uses] == [0, 1]
    assert len(told) == 2 and told[0].startswith("V3* stands") and told[1].startswith("V0* stands")


def test_what_the_user_typed_is_told_from_what_a_placeholder_became():
    done = P.substitute("V* dog and sks dog", ["sks"], ["dog"])
    assert [use.typed for use in done.uses] == [False, True]


def test_sentences_call_a_concept_as_the_prompt_does():
    assert P.placeholder_of("a V1* dog and V* dog", 1) == "V1*" and P.placeholder_of("a V* dog", 1) == "V*"
    assert P.placeholder_of("a V02* cat <lora:V2*:1>", 2) == "V02*"
    assert P.placeholder_of("nothing", 1) == "V*" and P.placeholder_of("V" + "1" * 9999 + "*", 2) == "V2*"


def test_a_typed_identifier_that_two_concepts_share_belongs_to_the_class_after_it():
    done = P.substitute("sks cat, SKS dog, sks, V2* thing", ["sks", "sks"], ["dog", "cat"])
    assert [use.concept for use in done.uses] == [1, 0, 0, 1]


def test_a_prompt_without_concepts_is_unchanged():
    assert P.substitute("a dog, very * good", [], []) == P.Substituted("a dog, very * good", [])


# -- concept tokens

V, DOG, RED, A, W = 7, 8, 9, 10, 11


def test_identifier_and_class_are_found_at_every_occurrence():
    found = find_concept_tokens(chunked([A, V, DOG, A, V, DOG]), [V], [DOG])
    assert found == ConceptTokens((2, 3, 5, 6), own=(2, 5))


def test_sequences_of_several_tokens_are_matched_whole():
    ids = chunked([V, W, V, V, W, DOG, RED, DOG])
    assert find_concept_tokens(ids, [V, W], [DOG, RED]).indices == (1, 2, 4, 5, 6, 7)


def test_indices_count_77_for_each_chunk():
    found = find_concept_tokens(chunked([A] * 75, [A, V, DOG]), [V], [DOG])
    assert found.indices == (77 + 2, 77 + 3)


def test_a_chunk_border_between_identifier_and_class_is_stepped_over():
    found = find_concept_tokens(chunked([A] * 74 + [V], [DOG, A]), [V], [DOG])
    assert found == ConceptTokens((75, 78), own=(75,))


def test_a_chunk_border_inside_the_identifier_is_stepped_over():
    found = find_concept_tokens(chunked([A] * 74 + [V], [W, DOG]), [V, W], [DOG])
    assert found.indices == (75, 78, 79)


def test_a_class_a_few_tokens_on_is_taken_and_flagged():
    found = find_concept_tokens(chunked([V, RED, RED, RED, DOG]), [V], [DOG])
    assert found == ConceptTokens((1, 5), own=(1,), adjacent=False)


def test_a_class_out_of_reach_leaves_the_identifier_alone():
    found = find_concept_tokens(chunked([V, RED, RED, RED, RED, DOG]), [V], [DOG])
    assert found.indices == (1,) and found.identifier_found and not found.class_found


def test_a_class_behind_another_identifier_is_not_taken():
    ids = chunked([V, A, W, DOG])
    assert find_concept_tokens(ids, [V], [DOG], others=[([W], [DOG])]).indices == (1,)
    assert find_concept_tokens(ids, [W], [DOG], others=[([V], [DOG])]).indices == (3, 4)


def test_one_occurrence_with_its_class_is_enough():
    found = find_concept_tokens(chunked([V, DOG, A, A, A, A, A, V]), [V], [DOG])
    assert found == ConceptTokens((1, 2, 8), own=(1, 8))


def test_a_missing_identifier_is_said():
    found = find_concept_tokens(chunked([A, DOG]), [V], [DOG])
    assert found.indices == () and not found.identifier_found and not found.class_found


def test_a_concept_without_a_class_is_its_identifier():
    found = find_concept_tokens(chunked([A, V, DOG]), [V], [])
    assert found.indices == (2,) and found.identifier_found


def test_a_shared_identifier_is_told_apart_by_the_class():
    cat = 12
    ids = chunked([V, RED, DOG, A, V, cat])
    assert find_concept_tokens(ids, [V], [DOG], others=[([V], [cat])]).indices == (1, 3)
    assert find_concept_tokens(ids, [V], [cat], others=[([V], [DOG])]).indices == (5, 6)
    missing = find_concept_tokens(chunked([V, DOG]), [V], [cat], others=[([V], [DOG])])
    assert missing.indices == () and not missing.identifier_found and not missing.shared


def test_concepts_with_the_same_words_are_not_guessed_apart():
    found = find_concept_tokens(chunked([V, DOG]), [V], [DOG], others=[([V], [DOG])])
    assert found.indices == () and found.shared and found.identifier_found


def test_a_concept_without_an_identifier_is_nowhere_and_ends_no_other():
    found = find_concept_tokens(chunked([V, DOG]), [], [DOG])
    assert found.indices == () and not found.identifier_found
    assert find_concept_tokens(chunked([V, DOG]), [V], [DOG], others=[([], [DOG])]).indices == (1, 2)


def test_in_an_empty_context_nothing_is_found():
    assert not find_concept_tokens([], [V], [DOG]).identifier_found


# -- identifiers


def test_every_candidate_is_one_token_of_clip(encode):
    assert [word for word in I.IDENTIFIERS if len(encode(word)) != 1] == []
    assert len(set(I.IDENTIFIERS)) == len(I.IDENTIFIERS)
    assert len(encode("ktn")) == 2


def test_candidates_of_several_tokens_are_skipped():
    pieces = {I.IDENTIFIERS[0]: [START, 1, 2, END], I.IDENTIFIERS[1]: [START, 1, END]}
    assert I.choose_identifier(pieces.__getitem__) == I.IDENTIFIERS[1]


def test_taken_identifiers_are_skipped_in_any_case():
    taken = [I.IDENTIFIERS[0].upper(), I.IDENTIFIERS[1]]
    assert I.choose_identifier(lambda _: [1], taken) == I.IDENTIFIERS[2]


def test_running_out_of_identifiers_is_said():
    with pytest.raises(PersresError, match="type an identifier of your own"):
        I.choose_identifier(lambda _: [1], I.IDENTIFIERS)


@pytest.mark.parametrize("bad", ["", "  ", "a b", "a\n", "AND", "BREAK", *(f"a{c}" for c in "()[]<>:|,*\\")])
def test_identifiers_that_a_prompt_would_misread_are_refused(bad):
    with pytest.raises(PersresError) as error:
        I.check_identifier(bad, lambda _: [1])
    assert is_one_sentence(error)


def test_an_identifier_without_tokens_is_refused():
    with pytest.raises(PersresError, match="has no tokens"):
        I.check_identifier("◌", lambda _: [START, END])


def test_a_usable_identifier_gives_its_ids(encode):
    assert I.check_identifier("sks", encode) == encode("sks")
    assert len(I.check_identifier("ktn", encode)) == 2


def test_a_chosen_identifier_is_found_among_the_tokens_of_a_real_prompt(encode):
    identifier = I.choose_identifier(encode)
    text = P.substitute("a photo of a V* teddy bear, V*'s hat", [identifier], ["teddy bear"]).text
    ids = encode(text)
    found = find_concept_tokens(chunked(ids), encode(identifier), encode("teddy bear"))
    assert found.indices == (5, 6, 7, 9) and found.class_found
    assert [ids[i - 1] for i in found.indices] == encode(f"{identifier} teddy bear {identifier}")
