"""No text makes a regular expression of ours, or a scanner of prompts, take longer than its length asks for."""

import ast
import re
from pathlib import Path

import pytest
from regex_steps import Counted, attacks

from lib_persres import prompt
from lib_persres.prompt import edit_tags, find_tags, parse_tags, substitute

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = ("compile", "search", "match", "fullmatch", "finditer", "findall", "sub", "subn", "split")
FILES = [*sorted((ROOT / "lib_persres").rglob("*.py")), *sorted((ROOT / "scripts").rglob("*.py"))]
FILES += [ROOT / "install.py", ROOT / "preload.py"]
REPEATS = 16


def text_of(node: ast.expr) -> str:
    """The pattern as it is written; what is put into it stands as a word."""
    if isinstance(node, ast.Constant):
        return node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
    assert isinstance(node, ast.JoinedStr), f"the pattern {ast.unparse(node)} cannot be read here: write it out"
    return "".join(part.value if isinstance(part, ast.Constant) else "olis" for part in node.values)


def patterns() -> dict[str, tuple[str, int, str]]:
    """Those of all files, by where they are: (pattern, flags, how it is used)."""
    found = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            if not isinstance(called, ast.Attribute) or ast.unparse(called.value) != "re":
                continue
            if called.attr in FUNCTIONS:
                flags = re.MULTILINE if "MULTILINE" in ast.unparse(node) else 0
                how = called.attr if called.attr in ("match", "fullmatch") else "finditer"
                found[f"{path.relative_to(ROOT).as_posix()}:{node.lineno}"] = text_of(node.args[0]), flags, how
    return found


PATTERNS = patterns()


def worst(pattern: str, flags: int = 0, how: str = "finditer") -> tuple[float, str]:
    """How the steps grow where the text has twice the length: 2 is linear, 4 is quadratic."""
    counted, found = Counted(pattern, flags, how), (0.0, "")
    for start, unit in attacks(counted):
        steps = []
        for repeats in (REPEATS, 2 * REPEATS):
            counted.find(start + unit * repeats + "\0")
            steps.append(counted.steps)
        found = max(found, (steps[1] / steps[0], start + unit * 3))
    return found


def test_the_counting_matcher_finds_what_pythons_finds():
    texts = ["<persres:rex:1.0> a V* dog, V2* cat", "a\n prompt_list = [\n 'x'\n]\n", "0.05m 8 .5", "V12* aV* V*_"]
    for pattern, flags, _ in [*PATTERNS.values(), (r"a+?b|(c|d)*e", 0, "")]:
        counted = Counted(pattern, flags)
        for text in [*texts, "aaab cdcde", *(start + unit * 2 for start, unit in attacks(counted)[:20])]:
            expected = [match.span() for match in re.finditer(pattern, text, flags) if match[0]]
            assert [(a, b) for a, b in counted.find(text) if a != b] == expected, (pattern, text)


@pytest.mark.parametrize(
    "pattern",
    [r"(<persres:\s*)([^:>]+?)(\s*[:>])", r"<(\w+):([^>]*)>", r"([0-9]*\.?[0-9]+)\s*(m?)$", r"^\s*x\s*=\s*\[.*?^\s*\]"],
)
def test_what_is_not_linear_is_seen(pattern):
    assert worst(pattern, re.MULTILINE | re.DOTALL)[0] > 3


def test_there_are_patterns():
    assert len(PATTERNS) > 20 and any(where.startswith("lib_persres/prompt.py") for where in PATTERNS)


@pytest.mark.parametrize("where", PATTERNS)
def test_every_pattern_is_linear(where):
    growth, text = worst(*PATTERNS[where])
    assert growth < 2.6, f"{text!r} grows {growth:.1f} times"


class Looked(str):
    """A text that counts how far it is searched."""

    looks = 0

    def find(self, wanted, start=0, *end):
        at = super().find(wanted, start, *end)
        type(self).looks += (len(self) if at < 0 else at) - start + 1
        return at


class Opening:
    """The pattern of a tag's beginning, counting likewise."""

    def __init__(self, pattern):
        self.pattern, self.looks = pattern, 0

    def search(self, text, at):
        found = self.pattern.search(text, at)
        self.looks += (found.end() if found else len(text)) - at + 1
        return found


@pytest.mark.parametrize("unit", ["<persres:", "<a:>", "<persres:rex", "<a", "<persres:a>V*", "V* ", "<", ">", "olis "])
def test_tags_are_found_in_one_pass(unit, monkeypatch):
    for repeats in (200, 400):
        text, opening = Looked(unit * repeats), Opening(re.compile(prompt._OPEN.pattern))
        monkeypatch.setattr(prompt, "_OPEN", opening)
        Looked.looks = 0
        list(find_tags(text))
        assert Looked.looks + opening.looks <= 4 * len(text) + 4
        monkeypatch.undo()


def test_a_long_prompt_of_tags_and_identifiers_is_read():
    # each of these took seconds to hours
    assert parse_tags("<persres:" * 20_000)[1] == [] and edit_tags("<persres:" + " " * 50_000, lambda tag: "") != ""
    text = "<lora:x:1> olis " * 5_000
    assert len(substitute(text, ["olis"], ["dog"]).uses) == 5_000
