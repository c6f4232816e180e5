"""Each sentence of docs/troubleshooting.md is one of the code's."""

import ast
import re
from pathlib import Path

import pytest
from pages import DOCS, ROOT

PAGE = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^> (.+)$", PAGE, re.MULTILINE)
FILLED = "…"


def sentences(path: Path) -> list[str]:
    """The texts of a file, with … for what an f-string fills in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(part.value if isinstance(part, ast.Constant) else FILLED for part in node.values))
    return found


@pytest.fixture(scope="module")
def written():
    return "\n".join(text for path in sorted((ROOT / "lib_persres").rglob("*.py")) for text in sentences(path))


def test_sentences_are_read_with_what_they_fill_in(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("def f(x):\n    raise ValueError(f'There is no {x!r}: '\n        'give another.')\n", "utf-8")
    assert "There is no …: give another." in sentences(path)


def test_there_are_sentences():
    assert len(QUOTED) > 30 and len(set(QUOTED)) == len(QUOTED)


@pytest.mark.parametrize("sentence", QUOTED, ids=lambda text: text[:50])
def test_the_sentence_is_in_the_code(sentence, written):
    assert sentence in written
