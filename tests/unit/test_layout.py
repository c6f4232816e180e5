"""Properties of the files: who may import what, no hidden state, nothing of one machine, nothing huge."""

import ast
import configparser
import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "lib_persres"

IGNORED = {".git", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", "demo-output", "outputs"}
CORE_MAY_IMPORT = {"torch", "safetensors", "numpy", "PIL", "lib_persres"} | sys.stdlib_module_names
ENTRIES = (
    "cards/editor",
    "cards/page",
    "generation/network",
    "generation/script",
    "gradios",
    "options_section",
    "tab/tab",
)
"""Of lib_persres/webui: what the WebUI calls by classes of its own, and what makes inputs for its page."""
HOSTS = (
    "a1111",
    "backend",
    "choices",
    "evaluations",
    "hijacked",
    "ldm",
    "ldm_patched",
    "ldm_texts",
    "managed",
    "texts",
    "threaded",
    "work",
)
"""Of lib_persres/webui/hosts: the WebUIs themselves."""
LONGEST_HOST = 150
"""Lines of a file of them."""
OF_CORE = ("lora", "training")
NOT_CORE = {"__main__.py", "progress.py"}
MUTABLE = {"dict", "list", "set", "defaultdict", "deque", "Counter", "OrderedDict", "bytearray"}
CHANGES = {"append", "extend", "insert", "add", "update", "setdefault", "pop", "popitem", "remove", "clear"}
MEGABYTE = 1_000_000
MACHINE_PATH = re.compile(r"(?<![\w.*)}])/(?:work|root|home/\w+|Users/\w+)/|\b[A-Za-z]:\\\\?Users\\")


def project_files() -> list[Path]:
    """Every file that belongs to the project; virtual environments and outputs do not."""
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [
            name
            for name in folders
            if name not in IGNORED
            and not name.startswith(".venv")
            and not name.endswith(".egg-info")
            and not (Path(folder) / name / "pyvenv.cfg").exists()
        ]
        found += [Path(folder) / name for name in files if name not in IGNORED]  # .git is a file in a worktree
    return sorted(found)


def is_core(path: Path) -> bool:
    if path.parent == PACKAGE:
        return path.name not in NOT_CORE
    return any(PACKAGE / folder in path.parents for folder in OF_CORE)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


FILES = project_files()
PYTHON = [path for path in FILES if path.suffix == ".py"]
CORE = [path for path in PYTHON if is_core(path)]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(tree: ast.Module, path: Path) -> list[tuple[str, int]]:
    """(dotted name, line) of every import at any depth; relative ones made absolute."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                package = path.relative_to(ROOT).parts[: -node.level]
                module = ".".join([*package, *([module] if module else [])])
            found += [(f"{module}.{alias.name}", node.lineno) for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            if node.args and isinstance(node.args[0], ast.Constant):
                found.append((str(node.args[0].value), node.lineno))
    return found


def host_imports(path: Path) -> list[str]:
    return [
        f"{name_of(path)}:{line} imports {name}"
        for name, line in imports(parse(path), path)
        if name.split(".")[0] in ("modules", "modules_forge", "backend", "ldm_patched", "gradio")
    ]


def state(tree: ast.Module) -> list[tuple[str, int]]:
    """(what, line) of everything that keeps mutable state at the level of the module or of a class.

    A filled table with an UPPERCASE name is a constant, unless a function of the module changes it.
    """
    found = [("global statement", node.lineno) for node in ast.walk(tree) if isinstance(node, ast.Global)]
    constants = set()

    def visit(body):
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and is_mutable(node.value):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for name in map(ast.unparse, targets):
                    if name.startswith("__"):
                        continue
                    if name != name.upper() or is_empty(node.value):
                        found.append((name, node.lineno))
                    constants.add(name)
            for part in ("body", "orelse", "finalbody", "handlers"):
                visit(getattr(node, part, []))

    visit(tree.body)
    functions = (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
    for node in (node for function in functions for node in ast.walk(function)):
        changed = None
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, (ast.Store, ast.Del)):
            changed = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            changed = node.func.value if node.func.attr in CHANGES else None
        if changed is not None and ast.unparse(changed) in constants:
            found.append((f"change of {ast.unparse(changed)}", node.lineno))
    return found


def is_mutable(value) -> bool:
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).rpartition(".")[2] in MUTABLE
    return isinstance(value, (ast.Dict, ast.List, ast.Set, ast.DictComp, ast.ListComp, ast.SetComp))


def is_empty(value) -> bool:
    if isinstance(value, ast.Call):
        return not value.args and not value.keywords
    return not getattr(value, "elts", getattr(value, "keys", True))


# -- the checks see what they look for -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "cache = {}",
        "CACHE = {}",
        "cache: dict[str, int] = {'a': 1}",
        "seen = set()",
        "import collections\nitems = collections.defaultdict(list)",
        "if True:\n    items = [1]",
        "class A:\n    shared = []",
        "def f():\n    global x\n    x = 1",
        "TABLE = {'a': 1}\ndef f():\n    TABLE['b'] = 2",
        "TABLE = ['a']\ndef f():\n    TABLE.append('b')",
    ],
)
def test_mutable_state_is_seen(source):
    assert state(ast.parse(source))


@pytest.mark.parametrize(
    "source",
    [
        "TABLE = {'a': 1}",
        "_NAMES: list[str] = ['a']",
        "__all__ = ['a']",
        "names = ('a', 'b')",
        "def f():\n    items = []\n    items.append(1)",
        "class A:\n    def __init__(self):\n        self.items = []",
        "from dataclasses import field\nclass A:\n    items: list = field(default_factory=list)",
    ],
)
def test_constants_and_local_state_are_allowed(source):
    assert state(ast.parse(source)) == []


def test_imports_are_seen_wherever_they_stand():
    tree = ast.parse(
        "import a.b\nfrom . import c\nfrom ..d import e\ndef f():\n    import g\n    importlib.import_module('h.i')"
    )
    found = [name for name, _ in imports(tree, PACKAGE / "training" / "loop.py")]
    assert sorted(found) == ["a.b", "g", "h.i", "lib_persres.d.e", "lib_persres.training.c"]


def test_machine_paths_are_seen_and_others_are_not():
    # "|" stands for "/", so that no line of this file looks like such a path itself
    for text in ("'|work|x'", "cd |home|ann|x", "|root|x", "C:" + r"\Users\ann"):
        assert MACHINE_PATH.search(text.replace("|", "/")), text
    for text in ("a|homework|b", "docs|home|page|x", "https:||example.org|root|x", "models|persres"):
        assert not MACHINE_PATH.search(text.replace("|", "/")), text


# -- the properties ------------------------------------------------------------------------------------------


def test_only_scripts_and_webui_import_the_host():
    wrong = []
    for path in PYTHON:
        if not name_of(path).startswith(("scripts/", "lib_persres/webui/", "tests/webui/")):
            wrong += host_imports(path)
    assert wrong == []


def test_in_the_webuis_part_only_the_host_and_what_registers_with_it_import_it():
    found = {name_of(path) for path in PYTHON if (PACKAGE / "webui") in path.parents and host_imports(path)}
    hosts = (f"hosts/{name}" for name in HOSTS)
    assert found == {f"lib_persres/webui/{name}.py" for name in (*hosts, *ENTRIES)}


def test_a_hosts_class_is_short():
    long = {name_of(path): len(path.read_text().splitlines()) for path in (PACKAGE / "webui" / "hosts").glob("*.py")}
    assert {name: lines for name, lines in long.items() if lines > LONGEST_HOST} == {}


def test_only_the_choice_of_the_host_asks_for_a_host():
    """Nothing else names a host's class or looks for its modules."""
    own = re.compile(r"\b(?:A1111|LdmPatched|Backend)\(|find_spec|hosts\.")
    found = {name_of(path) for path in PYTHON if PACKAGE / "webui" in path.parents and own.search(path.read_text())}
    assert found - {f"lib_persres/webui/hosts/{name}.py" for name in HOSTS} == {"lib_persres/webui/host.py"}


def test_the_core_imports_torch_safetensors_numpy_pillow_and_the_standard_library():
    assert CORE
    wrong = []
    for path in CORE:
        for name, line in imports(parse(path), path):
            if name.split(".")[0] not in CORE_MAY_IMPORT:
                wrong.append(f"{name_of(path)}:{line} imports {name}")
    assert wrong == []


def test_the_core_imports_no_other_part_of_the_library():
    # else it would reach ldm, transformers or the WebUI by way of them
    others = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name not in OF_CORE}
    others |= {name.removesuffix(".py") for name in NOT_CORE}
    wrong = []
    for path in CORE:
        for name, line in imports(parse(path), path):
            parts = name.split(".")
            if parts[0] == "lib_persres" and len(parts) > 1 and parts[1] in others:
                wrong.append(f"{name_of(path)}:{line} imports {name}")
    assert wrong == []


def test_nothing_but_the_entry_imports_the_commands():
    wrong = []
    for path in PYTHON:
        own = path.relative_to(ROOT).parts
        if own[0] != "lib_persres" or own[1] in ("commands", "__main__.py"):
            continue
        for name, line in imports(parse(path), path):
            if name.startswith("lib_persres.commands"):
                wrong.append(f"{name_of(path)}:{line} imports {name}")
    assert wrong == []


def test_no_module_of_tests_imports_another():
    tests = {path.stem for path in PYTHON if path.name.startswith("test_")}
    wrong = []
    for path in PYTHON:
        for name, line in imports(parse(path), path) if (ROOT / "tests") in path.parents else ():
            if tests & set(name.split(".")[:-1]):
                wrong.append(f"{name_of(path)}:{line} imports {name}")
    assert wrong == []


def test_the_core_keeps_no_mutable_state():
    wrong = [f"{name_of(path)}:{line} {what}" for path in CORE for what, line in state(parse(path))]
    assert wrong == []


def test_no_file_names_a_path_of_one_machine():
    wrong = []
    for path in FILES:
        data = path.read_bytes() if path.stat().st_size < MEGABYTE else b"\0"
        if b"\0" in data:  # not a text
            continue
        for number, line in enumerate(data.decode("utf-8", errors="replace").splitlines(), 1):
            if MACHINE_PATH.search(line):
                wrong.append(f"{name_of(path)}:{number} {line.strip()[:100]}")
    assert wrong == []


def test_no_file_is_large_but_the_toybox_checkpoint():
    toybox = "lib_persres/toybox/"
    large = {name_of(path): path.stat().st_size for path in FILES if path.stat().st_size > MEGABYTE}
    assert [name for name in large if not name.startswith(toybox)] == []
    assert [name for name, size in large.items() if size > 40 * MEGABYTE] == []


def test_the_top_level_has_what_the_webui_looks_for():
    for name in ("install.py", "preload.py", "metadata.ini", "style.css"):
        assert (ROOT / name).is_file(), name
    assert (ROOT / "javascript").is_dir()
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "metadata.ini", encoding="utf-8")
    # the WebUI reads the name in lower case
    assert metadata["Extension"]["Name"] == metadata["Extension"]["Name"].lower() == "persres"
