"""docs/api.md names what there is, all of it, and nothing else."""

import ast
import json
import re
from dataclasses import fields

import pytest
from pages import DOCS, ROOT, blocks

from lib_persres.training.options import SET
from lib_persres.webui.settings import Settings
from lib_persres.webui.training.job import Job
from lib_persres.webui.training.record import STATES
from lib_persres.webui.training.request import Request

WEBUI = ROOT / "lib_persres" / "webui"
PAGE = (DOCS / "api.md").read_text(encoding="utf-8")
OPTIONS = {option.name for option in SET}
"""Whose table is filled in, see `benchmarks.pages`."""
PHOTOS = {"images", "folder", "class_images", "class_folder"}
VERBS = ("get", "post", "delete", "put")
ACTION = "/persres/v1/train/{identity}/{action}"


def table(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    part = re.split(rf"^##+ {heading}$", PAGE, flags=re.MULTILINE)[1]
    lines = re.search(r"(?:^\|.*\n)+", part, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def named(heading: str) -> list[str]:
    """The names in the table's first column."""
    return [name for row in table(heading) for name in re.findall(r"`([^`]+)`", row[0])]


def routes() -> set[str]:
    """ "GET /persres/v1/…" of each function that one is made of, wherever in webui/ it stands."""
    found = set()
    for path in WEBUI.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = {
            node.targets[0].id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
                continue
            if node.func.attr in VERBS and ast.unparse(node.func.value) == "app":
                route = eval(compile(ast.Expression(node.args[0]), str(path), "eval"), texts)
                found.add(f"{node.func.attr.upper()} {route}")
        actions = [node for node in ast.walk(tree) if isinstance(node, ast.Dict)]
        names = [[key.value for key in one.keys if isinstance(key, ast.Constant)] for one in actions]
        if f"POST {ACTION}" in found and (of_action := [one for one in names if "cancel" in one and "save" in one]):
            found.remove(f"POST {ACTION}")
            found |= {f"POST {ACTION}".replace("{action}", name) for name in of_action[0]}
    return found


def test_the_routes_of_the_page_are_those_of_the_code():
    assert len(routes()) > 10
    assert set(named("Routes")) == routes()


def test_the_arguments_of_the_page_are_those_of_the_code_with_their_defaults():
    shown = {row[0].strip("`"): row[1].split(",")[0].strip("`") for row in table("Arguments")}
    assert list(shown) == [field.name for field in fields(Settings)]
    assert {name: json.loads(value) for name, value in shown.items()} == {
        **{field.name: field.default for field in fields(Settings)},
        "enabled": True,  # a dict switches the script on
    }


def test_the_fields_of_a_training_are_those_of_the_code():
    assert set(named("Fields")) == {field.name for field in fields(Request)} - OPTIONS | PHOTOS


def test_the_keys_of_a_status_are_those_of_the_code():
    source = (WEBUI / "training" / "job.py").read_text(encoding="utf-8")
    function = next(
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef) and node.name == "status"
    )
    status = next(node for node in ast.walk(function) if isinstance(node, ast.Dict))
    assert Job.status.__code__.co_firstlineno == function.lineno
    assert set(named("Status")) == {key.value for key in status.keys}
    assert set(re.findall(r"`(\w+)`", next(row for row in table("Status") if row[0] == "`state`")[1])) == set(STATES)


def test_what_the_info_tells_is_written_in_the_code():
    code = "".join(path.read_text(encoding="utf-8") for path in WEBUI.rglob("*.py"))
    keys = named("What is told")
    assert len(keys) == 6
    assert [key for key in keys if f'"{key}"' not in code] == []


@pytest.mark.parametrize("body", re.findall(r"-d '(\{.*?\n\})'", "\n".join(blocks(PAGE, "sh")), re.DOTALL))
def test_a_body_of_the_shells_examples_is_understood(body):
    given = json.loads(body)
    if "prompt" in given:
        (entry,) = given["alwayson_scripts"].values()
        assert Settings.from_args(entry["args"]).lag == "on"
    else:
        assert given.pop("folder") and Request.from_dict(given).macro_class == "cat"


def test_the_pythons_examples_are_one_program():
    compile("\n".join(blocks(PAGE, "python")), "api.md", "exec")
