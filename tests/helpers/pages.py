"""The pages in Markdown: their blocks of code, and the commands in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = (README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md")))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks in a language: sh, python, json, mermaid."""
    return [body for name, body in BLOCK.findall(text) if name == language]


def commands(text: str, program: str) -> list[list[str]]:
    """The arguments of each command in a page's sh blocks and indented lines that begins with `program`."""
    shell = "\n".join([*blocks(text, "sh"), *re.findall(r"^    (python .*)$", text, re.MULTILINE)])
    lines = shell.replace("\\\n", " ").splitlines()
    return [shlex.split(line.removeprefix(program), comments=True) for line in lines if line.startswith(program + " ")]
