"""The folder of residuals; no WebUI is needed for it."""

import gc
import os
import weakref

import pytest
import torch

from lib_persres.errors import PersresError
from lib_persres.residual import Factors, Metadata, Residual
from lib_persres.webui.files import Shelf


def write(path, concept="", value=1.0):
    factors = {"a.proj_out": Factors(torch.full((1, 4), value), torch.ones(4, 1))}
    Residual(factors, Metadata(concept=concept, identifier="olis", macro_class="dog")).save(path)
    return path


def value(loaded):
    return loaded.residual.factors["a.proj_out"].down[0, 0].item()


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "rex.safetensors", "Rex of Rome")
    write(tmp_path / "deep" / "mia.safetensors", "mia", 2.0)
    return tmp_path


def test_by_stem_path_and_alias(folder):
    shelf = Shelf(lambda: folder)
    assert [entry.name for entry in shelf.entries] == ["mia", "rex"]
    for name in ("rex", "rex.safetensors", "Rex of Rome"):
        assert value(shelf.load(name)) == 1
    for name in ("mia", "deep/mia", "deep\\mia"):
        assert value(shelf.load(name)) == 2
    assert shelf.load("mia") is shelf.load("deep/mia") and len(shelf.load("mia").short_hash) == 10


def test_a_missing_one_is_looked_for_again_and_then_told(folder):
    shelf = Shelf(lambda: folder)
    with pytest.raises(PersresError, match='no residual "new".*mia, rex'):
        shelf.load("new")
    write(folder / "new.safetensors", value=3.0)
    assert value(shelf.load("new")) == 3
    with pytest.raises(PersresError, match="holds none"):
        Shelf(lambda: folder / "nowhere").load("rex")
    for name in ("../rex", "", str(folder / "rex")):
        with pytest.raises(PersresError, match="no residual"):
            Shelf(lambda: folder / "deep").load(name)


def test_a_changed_file_is_read_again_and_a_deleted_one_is_gone(folder):
    shelf = Shelf(lambda: folder)
    first = shelf.load("rex")
    path = write(folder / "rex.safetensors", value=5.0)
    os.utime(path, ns=(1, 1))
    assert value(shelf.load("rex")) == 5 and shelf.load("rex").hash != first.hash
    path.unlink()
    with pytest.raises(PersresError, match="no residual"):
        shelf.load("rex")


def test_two_files_of_one_name_are_told_apart(folder):
    write(folder / "other" / "mia.safetensors", value=7.0)
    shelf = Shelf(lambda: folder)
    assert [entry.name for entry in shelf.entries] == ["deep/mia", "other/mia", "rex"]
    assert value(shelf.load("other/mia")) == 7
    with pytest.raises(PersresError, match="2 residuals.*deep/mia, other/mia"):
        shelf.load("mia")


def test_a_file_that_cannot_be_read_is_listed_and_says_why_when_it_is_asked_for(folder):
    (folder / "bad.safetensors").write_bytes(b"no")
    shelf = Shelf(lambda: folder)
    assert [entry.metadata is None for entry in shelf.entries if entry.name == "bad"] == [True]
    with pytest.raises(PersresError, match="bad.safetensors cannot be used"):
        shelf.load("bad")


def test_by_hash(folder):
    shelf = Shelf(lambda: folder)
    digest = shelf.load("rex").hash
    (folder / "rex.safetensors").rename(folder / "max.safetensors")
    assert shelf.by_hash(digest[:10]).name == "max" and shelf.by_hash("") is None and shelf.by_hash("zz") is None


def test_the_ones_not_used_for_the_longest_time_go_out_of_memory(folder):
    write(folder / "max.safetensors", value=3.0)
    limit = [2]
    shelf = Shelf(lambda: folder, lambda: limit[0])
    first = {name: weakref.ref(shelf.load(name)) for name in ("rex", "mia")}
    shelf.load("rex")
    shelf.load("max")
    gc.collect()
    assert first["rex"]() is not None and first["mia"]() is None
    held = shelf.load("rex")
    limit[0] = 0
    shelf.trim()
    # what a generation uses is not read a second time
    assert shelf.load("rex") is held
    del held
    gc.collect()
    assert first["rex"]() is None and value(shelf.load("rex")) == 1


def test_another_folder_is_read_when_it_is_chosen(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write(other / "rex.safetensors", value=9.0)
    chosen = [folder]
    shelf = Shelf(lambda: chosen[0])
    assert value(shelf.load("rex")) == 1
    chosen[0] = other
    assert value(shelf.load("rex")) == 9 and [entry.name for entry in shelf.entries] == ["rex"]
    with pytest.raises(PersresError, match="no residual"):
        shelf.load("mia")
