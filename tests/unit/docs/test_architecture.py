"""The pictures of what imports what are drawn from the imports, and no arrow leads back."""

import pytest

from benchmarks import architecture
from benchmarks.architecture import arrows, circles, draw, module_of, part_of, shortest


@pytest.fixture
def house(tmp_path):
    """write({path: source}) -> the root of a small project."""

    def write(files):
        for name, source in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8")
        return tmp_path

    return write


def test_imports_of_every_kind_are_arrows_and_those_of_others_are_none(house):
    root = house(
        {
            "lib_persres/__init__.py": "",
            "lib_persres/a.py": "import torch\nfrom . import b",
            "lib_persres/b.py": "",
            "lib_persres/__main__.py": "from .commands import main",
            "lib_persres/training/x.py": "def f():\n    from ..a import thing",
            "lib_persres/commands/__init__.py": "import lib_persres.training.x\nfrom .. import __version__",
            "scripts/persres.py": "from lib_persres.commands import main",
        }
    )
    assert arrows(part_of, root) == {
        ("training", "core"),
        ("commands", "training"),
        ("commands", "core"),
        ("scripts", "commands"),
    }
    assert arrows(module_of, root) == {("a", "b")}


def test_an_arrow_that_a_longer_way_shows_is_left_out():
    assert shortest({("a", "b"), ("b", "c"), ("a", "c")}) == {("a", "b"), ("b", "c")}
    assert "a --> c" not in draw({("a", "b"), ("b", "c"), ("a", "c")}, {})


def test_circles_are_seen():
    assert circles({("a", "b"), ("b", "c"), ("c", "b")}) == {"b", "c"}


@pytest.mark.parametrize("room", [part_of, module_of])
def test_no_arrow_of_the_project_leads_back(room):
    found = arrows(room)
    assert len(found) > 10 and circles(found) == set()


def test_every_part_has_words_and_every_module_of_the_picture_an_arrow():
    assert {room for arrow in arrows(part_of) for room in arrow} == set(architecture.LABELS)
    assert all(f"    {name}[" in architecture.core() for name in architecture.OF_A_PICTURE)
