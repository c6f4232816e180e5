"""DreamBooth's dataset (Ruiz et al., CVPR 2023): dataset/<subject>/NN.jpg and prompts_and_classes.txt.

That text lists "subject,class" lines and two Python lists of prompts, one for objects, one for live subjects. The
lists are read as syntax, by `ast`; nothing of the file is ever executed.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

from ...errors import PersresError
from .dataset import Concept, Dataset, Prompt, check_prompt, image_files, read_text

FILE = "prompts_and_classes.txt"
LIVE = frozenset({"cat", "dog"})
"""The classes that take the prompts for live subjects; the file itself does not say which do."""
_LIST = re.compile(r"^[ \t]*prompt_list[ \t]*=[ \t]*\[.*?^[ \t]*\]", re.MULTILINE | re.DOTALL)


def read(root: str | os.PathLike) -> Dataset:
    """`root` is the folder that holds the text and the subjects' folders, or the one above ("dataset" in it)."""
    root = Path(root)
    if not (root / FILE).is_file() and (root / "dataset" / FILE).is_file():
        root = root / "dataset"
    classes, objects, live = parse(read_text(root / FILE, "The list of subjects"), str(root / FILE))
    concepts = tuple(
        Concept(name, cls, image_files(root / name, name), live if cls in LIVE else objects)
        for name, cls in classes.items()
    )
    return Dataset("DreamBooth", concepts)


def parse(text: str, where: str = FILE) -> tuple[dict[str, str], tuple[Prompt, ...], tuple[Prompt, ...]]:
    """Subject -> class, the prompts for objects, the prompts for live subjects."""
    lists: dict[str, tuple[Prompt, ...]] = {}
    for found in _LIST.finditer(text):
        heading = next((line for line in reversed(text[: found.start()].splitlines()) if line.strip()), "")
        kind = "live" if "live" in heading.lower() else "object"
        if kind in lists:
            raise PersresError(f"{where} has two lists of {kind} prompts.")
        lists[kind] = _prompts(found[0].strip(), where)
    for kind in ("object", "live"):
        if kind not in lists:
            raise PersresError(f"{where} has no list of {kind} prompts (prompt_list = […]).")
    return _classes(text, where), lists["object"], lists["live"]


def _classes(text: str, where: str) -> dict[str, str]:
    before = re.split(r"^[ \t]*Prompts[ \t\r]*$", text, maxsplit=1, flags=re.MULTILINE)[0]
    classes: dict[str, str] = {}
    for line in before.splitlines():
        name, comma, cls = (part.strip() for part in line.partition(","))
        if comma and (name, cls) != ("subject_name", "class"):
            if not re.fullmatch(r"[\w-]+", name) or not cls:
                raise PersresError(f"{where}: {line.strip()!r} is not subject,class.")
            classes[name] = cls
    if not classes:
        raise PersresError(f"{where} lists no subject,class.")
    return classes


def _prompts(source: str, where: str) -> tuple[Prompt, ...]:
    try:
        statement = ast.parse(source).body[0]
    except (SyntaxError, ValueError) as error:
        raise PersresError(f"{where}: a list of prompts is not a Python list ({error}).") from error
    if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.List):
        raise PersresError(f"{where}: a list of prompts is more than a Python list.")
    return tuple(Prompt(check_prompt(_template(element, where), where)) for element in statement.value.elts)


def _template(node: ast.expr, where: str) -> str:
    """'a {0} {1} in the snow'.format(unique_token, class_token) -> "a {} in the snow"."""
    names: list[str] = []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        names = [ast.unparse(argument) for argument in node.args]
        node = node.func.value
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
        raise PersresError(f"{where}: {ast.unparse(node)[:60]!r} is not a prompt in quotes.")
    if names and names != ["unique_token", "class_token"]:
        raise PersresError(f"{where}: a prompt is filled with {', '.join(names)}, not unique_token, class_token.")
    return node.value.replace("{0} {1}", "{}")
