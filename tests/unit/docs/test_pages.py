"""The pages are true: what is filled in is today's, links lead somewhere, files and functions that they name exist."""

import ast
import re

import pytest
import torch
from pages import DOCS, PAGES, README, ROOT, blocks

from benchmarks.pages import FILLED, fill
from lib_persres import masks
from lib_persres.masks import View
from lib_persres.plan import Row

BY_HAND = [README, ROOT / "CONTRIBUTING.md", DOCS / "architecture.md", DOCS / "how-it-works.md", DOCS / "webui.md"]
"""Pages whose paths are those of today; others tell of what was."""
PATH = re.compile(r"`((?:lib_persres|tests|benchmarks|scripts|docs)/[\w/.-]*)`")


def anchors(text: str) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("mark", FILLED)
def test_what_is_filled_in_is_what_the_code_says(mark):
    page, content = FILLED[mark]
    text = (DOCS / page).read_text(encoding="utf-8")
    assert fill(text, mark, content()) == text, "run python -m benchmarks.pages"


def test_filling_replaces_what_is_between_the_marks_alone():
    assert fill("a\n<!-- x -->\nold\n<!-- /x -->\nb", "x", "new") == "a\n<!-- x -->\n\nnew\n\n<!-- /x -->\nb"
    for text in ("", "<!-- x -->", "<!-- /x --><!-- x -->", "<!-- x --><!-- x --><!-- /x -->"):
        with pytest.raises(ValueError, match="needs one <!-- x -->"):
            fill(text, "x", "new")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_are_there(page):
    text = page.read_text(encoding="utf-8")
    missing = []
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text)):
        name, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (page.parent / name) if name else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            missing.append(link)
    assert missing == []


@pytest.mark.parametrize("page", BY_HAND, ids=lambda page: page.name)
def test_the_paths_of_a_page_are_there(page):
    named = PATH.findall(page.read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_functions_of_the_flow_are_where_the_page_says():
    steps = re.findall(r"`([\w/]+\.py)`: `(\w+)`", (DOCS / "architecture.md").read_text(encoding="utf-8"))
    assert len(steps) > 8
    for name, what in steps:
        tree = ast.parse((ROOT / "lib_persres" / name).read_text(encoding="utf-8"))
        assert what in {getattr(node, "name", "") for node in tree.body}, f"{name}: {what}"


def test_the_readme_is_a_front_door():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    linked = set(re.findall(r"\]\(([\w./-]+\.md)\)", text))
    # every page is found from it
    assert {page.relative_to(ROOT).as_posix() for page in PAGES if page != README} <= linked


def test_the_mask_that_contributing_shows_is_one():
    (source,) = blocks((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), "python")
    names = {**vars(masks)}
    exec(f"from __future__ import annotations\n{source}", names)
    view = View("block", (8, 8), (Row(0, 0),), ((True, True),), torch.device("cpu"))
    gate = names["Disc"]().gate(view).reshape(2, 8, 8)
    assert gate[:, 3:5, 3:5].all() and not gate[:, :, 0].any() and torch.equal(gate[0], gate[1])
