"""What a card's click makes of a prompt: javascript/persres_prompt.js in node, without a page."""

import json
import random
import re
import shutil
import string
import subprocess
from pathlib import Path

import pytest

from lib_persres.errors import PersresError
from lib_persres.names import check_class
from lib_persres.prompt import substitute

SCRIPT = Path(__file__).resolve().parents[2] / "javascript" / "persres_prompt.js"
ENOUGH = 120
"""Seconds; what is not linear takes hours of them."""

pytestmark = pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")


def answers(calls):
    """What the page's functions return: [name, arguments] each."""
    program = f"""
    const vm = require("vm"), fs = require("fs");
    const page = vm.createContext({{}});
    vm.runInContext(fs.readFileSync({json.dumps(str(SCRIPT))}, "utf8"), page);
    const calls = JSON.parse(fs.readFileSync(0, "utf8"));
    console.log(JSON.stringify(calls.map(([name, values]) => {{
        page.values = values;
        return vm.runInContext(`${{name}}(...values)`, page);
    }})));
    """
    done = subprocess.run(
        ["node", "-e", program], input=json.dumps(calls), capture_output=True, text=True, timeout=ENOUGH
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def usable(word):
    try:
        return check_class(word) == word
    except PersresError:
        return False


WORDS = ["t-shirt", "teddy-bear", "my-dog", "a'b", "dog's", "two words", "a_b", "x--y", "9", "İ", "ß", "K9-unit"]
WORDS += ["犬", "собака", "كلب", "τέρας", "कुत्ता", "สุนัข", "כֶּלֶב", "cafe\u0301", "𝒟og", "ﬁsh", "V", "AND"]
WORDS += [f"d{mark}g" for mark in string.punctuation]
CLASSES = [word for word in WORDS if usable(word)]


def card(noun, phrase=""):
    return {"names": ["rex"], "noun": noun, "phrase": phrase}


def test_a_click_finds_every_class_in_the_prompt_and_the_next_one_takes_it_out():
    assert {"t-shirt", "teddy-bear", "my-dog", "a'b", "dog's", "d-g", "犬"} <= set(CLASSES)
    added = answers([["persresAdd", [f"a red {noun} on grass", card(noun), "1.0"]] for noun in CLASSES])
    assert added == [f"<persres:rex:1.0> a red V* {noun} on grass" for noun in CLASSES]
    left = answers([["persresRemove", [text, card(noun)]] for text, noun in zip(added, CLASSES)])
    assert left == [f"a red {noun} on grass" for noun in CLASSES]


def test_a_class_is_added_behind_other_words_and_taken_out_again():
    added = answers([["persresAdd", ["some house", card(noun), "1.0"]] for noun in WORDS])
    assert added == [f"<persres:rex:1.0> some house, V* {noun}" for noun in WORDS]
    assert set(answers([["persresRemove", [text, card(noun)]] for text, noun in zip(added, WORDS)])) == {"some house"}


def test_phrases_with_every_mark_are_added_and_taken_out():
    phrases = [f"my{mark}V* d{mark}g{mark}" for mark in string.punctuation if mark not in "<>_*"]
    added = answers([["persresAdd", ["a house", card("dog", phrase), "1.0"]] for phrase in phrases])
    assert added == [f"<persres:rex:1.0> a house, {phrase}" for phrase in phrases]
    left = answers([["persresRemove", [text, card("dog", phrase)]] for text, phrase in zip(added, phrases)])
    assert set(left) == {"a house"}


def test_a_lora_files_words_are_added_as_they_are_and_taken_out_again():
    def lora(phrase):
        return {"names": ["lora/rex"], "noun": "", "phrase": phrase, "plain": True}

    added = answers(
        [
            ["persresAdd", ["a house", lora("grey cat"), "0.8"]],
            ["persresAdd", ["a grey cat, a house", lora("grey cat"), "0.8"]],
            ["persresAdd", ["a V* dog <persres:tom:1>", lora(""), "0.8"]],
            ["persresAdd", ["concatenation <lora:mycat:1>", lora("cat"), "0.8"]],
            ["persresAdd", ["", lora("cat"), "0.8"]],
        ]
    )
    assert added == [
        "<persres:lora/rex:0.8> a house, grey cat",
        "<persres:lora/rex:0.8> a grey cat, a house",
        "a V* dog <persres:tom:1> <persres:lora/rex:0.8>",
        "<persres:lora/rex:0.8> concatenation, cat <lora:mycat:1>",
        "<persres:lora/rex:0.8> cat",
    ]
    removed = answers(
        [
            ["persresRemove", [added[0], lora("grey cat")]],
            ["persresRemove", ["a V2* dog <persres:lora/rex:0.8> <persres:tom:1>", lora("")]],
            ["persresRemove", ["a V* dog <persres:lora/rex:0.8>", lora("")]],
            ["persresRemove", [added[4], lora("cat")]],
        ]
    )
    assert removed == ["a house", "a V* dog <persres:tom:1>", "a V* dog", ""]


def test_a_class_within_another_word_is_none():
    for text in ("hotdogs", "a dog-house", "a hot-dog", "dogma", "an underdog", "do\u0301g", "dog\u0301"):
        (found,) = answers([["persresFindNoun", [text, "dog"]]])
        assert found == -1, text
    assert answers([["persresFindNoun", [text, "dog"]] for text in ("V* dog", "V2*  dog, DOG", "V dog")]) == [-1, 10, 2]


def test_tags_are_those_that_the_webui_sees():
    rng = random.Random(0)
    parts = ["<", ">", ":", "persres", "a", "é", " ", "=", "<persres:rex:1>", "V*", "\n", "😀", "<a:>"]
    texts = ["".join(rng.choices(parts, k=12)) for _ in range(500)]
    pieces = answers([["persresPieces", [text]] for text in texts])
    for text, found in zip(texts, pieces):
        webui = [match.groups() for match in re.finditer(r"<(\w+):([^>]+)>", text)]
        assert [(piece["network"], piece["args"]) for piece in found if "network" in piece] == webui, text
        assert "".join(piece["text"] for piece in found) == text


def test_placeholders_are_those_that_are_substituted():
    texts = ["V*", "xV*", "*V*", "V*x", "V1*", "V01*", "V2*", "V*,V*", "éV*", "V*é", "犬V*", "-V*-", "V**", "v*"]
    found = answers([["persresHas", [text, 1]] for text in texts])
    assert found == [bool(substitute(text.replace("V2*", ""), ["olis"], ["dog"]).uses) for text in texts]
    big = "V" + "9" * 400 + "*"
    assert answers([["persresRemove", [f"<persres:rex> V* dog {big}", card("dog")]]]) == [f"dog {big}"]


def test_no_text_takes_more_than_linear_time():
    n = 100_000
    hostile = ["<persres:" * n, "<persres:" + " " * n, " " * n + "x", "<a:" * n + ">", "<a:>" * n, "V" * n, "V1" * n]
    hostile += ["V" + "1" * n, "V*" + " " * n + "dog", " dog" * n, ("V*" + " " * 9 + "dog") * (n // 9), "<a" * n]
    hostile += ["," * n, "<persres:mia> " * (n // 10), "x " * n, "V* " * n + "<persres:rex>", " " * n]
    hostile += ["=" * n + ":" * n]
    calls = [["persresAdd", [text, card("dog"), "1"]] for text in hostile]
    calls += [["persresRemove", [text, card("dog")]] for text in hostile]
    calls += [["persresRemove", [text, card("dog", "V* " + " " * 1000)]] for text in hostile]
    assert len(answers(calls)) == 3 * len(hostile)
