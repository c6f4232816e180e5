"""The folder of residuals: which file a name means, what is read when, and what is left alone."""

import gc
import json
import os
import threading
import unicodedata
import weakref
from dataclasses import asdict

import pytest
import torch

from lib_persres import residual_folder as module
from lib_persres.errors import PersresError
from lib_persres.residual import MAX_FILE, Factors, Metadata, Residual
from lib_persres.residual_folder import ResidualFolder

CAFE, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
NO_UTF_8 = os.fsdecode(b"caf\xe9.safetensors")


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
    residuals = ResidualFolder(lambda: folder)
    assert [entry.name for entry in residuals.entries] == ["mia", "rex"]
    for name in ("rex", "rex.safetensors", "Rex of Rome"):
        assert value(residuals.load(name)) == 1
    for name in ("mia", "deep/mia", "deep\\mia"):
        assert value(residuals.load(name)) == 2
    assert residuals.load("mia") is residuals.load("deep/mia") and len(residuals.load("mia").short_hash) == 10


def test_a_missing_one_is_looked_for_again_and_then_told(folder):
    residuals = ResidualFolder(lambda: folder)
    with pytest.raises(PersresError, match='no residual "new".*mia, rex'):
        residuals.load("new")
    write(folder / "new.safetensors", value=3.0)
    assert value(residuals.load("new")) == 3
    with pytest.raises(PersresError, match="does not exist"):
        ResidualFolder(lambda: folder / "nowhere").load("rex")
    for name in ("../rex", "", str(folder / "rex")):
        with pytest.raises(PersresError, match="no residual"):
            ResidualFolder(lambda: folder / "deep").load(name)


def test_a_changed_file_is_read_again_and_a_deleted_one_is_gone(folder):
    residuals = ResidualFolder(lambda: folder)
    first = residuals.load("rex")
    path = write(folder / "rex.safetensors", value=5.0)
    os.utime(path, ns=(1, 1))
    assert value(residuals.load("rex")) == 5 and residuals.load("rex").hash != first.hash
    path.unlink()
    with pytest.raises(PersresError, match="no residual"):
        residuals.load("rex")


def test_two_files_of_one_name_are_told_apart(folder):
    write(folder / "other" / "mia.safetensors", value=7.0)
    residuals = ResidualFolder(lambda: folder)
    assert [entry.name for entry in residuals.entries] == ["deep/mia", "other/mia", "rex"]
    assert value(residuals.load("other/mia")) == 7
    with pytest.raises(PersresError, match="2 residuals.*deep/mia, other/mia"):
        residuals.load("mia")


def test_a_file_that_cannot_be_read_is_listed_and_says_why_when_it_is_asked_for(folder):
    (folder / "bad.safetensors").write_bytes(b"no")
    residuals = ResidualFolder(lambda: folder)
    assert [entry.metadata is None for entry in residuals.entries if entry.name == "bad"] == [True]
    with pytest.raises(PersresError, match="bad.safetensors cannot be used"):
        residuals.load("bad")


def test_by_hash(folder):
    residuals = ResidualFolder(lambda: folder)
    digest = residuals.load("rex").hash
    (folder / "rex.safetensors").rename(folder / "max.safetensors")
    assert residuals.by_hash(digest[:10]).name == "max"
    assert residuals.by_hash("") is None and residuals.by_hash("zz") is None


def test_the_ones_not_used_for_the_longest_time_go_out_of_memory(folder):
    write(folder / "max.safetensors", value=3.0)
    limit = [2]
    residuals = ResidualFolder(lambda: folder, lambda: limit[0])
    first = {name: weakref.ref(residuals.load(name)) for name in ("rex", "mia")}
    residuals.load("rex")
    residuals.load("max")
    gc.collect()
    assert first["rex"]() is not None and first["mia"]() is None
    held = residuals.load("rex")
    limit[0] = 0
    residuals.trim()
    # what a generation uses is not read a second time
    assert residuals.load("rex") is held
    del held
    gc.collect()
    assert first["rex"]() is None and value(residuals.load("rex")) == 1


def test_another_folder_is_read_when_it_is_chosen(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write(other / "rex.safetensors", value=9.0)
    chosen = [folder]
    residuals = ResidualFolder(lambda: chosen[0])
    assert value(residuals.load("rex")) == 1
    chosen[0] = other
    assert value(residuals.load("rex")) == 9 and [entry.name for entry in residuals.entries] == ["rex"]
    with pytest.raises(PersresError, match="no residual"):
        residuals.load("mia")


# -- names


def test_the_webui_and_the_command_line_agree_on_every_name(folder):
    write(folder / "other" / "mia.safetensors", "mia the other")
    residuals, command_line = ResidualFolder(lambda: folder), ResidualFolder(lambda: folder, anywhere=True)

    def found(residuals, name):
        try:
            return residuals.find(name).path
        except PersresError as error:
            return str(error)

    for name in ("rex", "Rex of Rome", "mia", "deep/mia", "mia the other", "rx", "deep\\mia", "nothing like it"):
        assert found(residuals, name) == found(command_line, name)


def test_one_form_of_unicode_finds_the_other(folder):
    write(folder / f"{DECOMPOSED}.safetensors", "ne\u0301", 3.0)
    residuals = ResidualFolder(lambda: folder)
    assert CAFE in [entry.name for entry in residuals.entries]
    for name in (CAFE, DECOMPOSED, "né", "ne\u0301"):
        assert value(residuals.load(name)) == 3


def test_two_files_that_only_the_form_tells_apart_are_told_apart(folder):
    write(folder / f"{DECOMPOSED}.safetensors", value=3.0)
    write(folder / f"{CAFE}.safetensors", value=4.0)
    if len(list(folder.glob("caf*"))) < 2:
        pytest.skip("the file system has one form")
    residuals = ResidualFolder(lambda: folder)
    assert value(residuals.load(DECOMPOSED)) == 3 and value(residuals.load(CAFE)) == 4
    assert {CAFE, DECOMPOSED} < {entry.name for entry in residuals.entries}


def test_a_file_whose_name_is_no_utf_8_has_a_name_that_can_be_written(folder):
    try:
        os.rename(folder / "rex.safetensors", folder / NO_UTF_8)
    except OSError:
        pytest.skip("the file system has UTF-8 alone")
    residuals = ResidualFolder(lambda: folder)
    described = [[entry.name, entry.inside, asdict(entry.metadata)] for entry in residuals.entries]
    json.dumps(described, ensure_ascii=False, allow_nan=False).encode()
    assert "caf\\xe9" in [entry.name for entry in residuals.entries] and value(residuals.load("Rex of Rome")) == 1


@pytest.mark.parametrize(
    "wrong, right", [("rx", "rex"), ("Rex", "rex"), ("mia2", "mia"), ("rex of rom", "Rex of Rome")]
)
def test_a_near_name_is_asked_for(folder, wrong, right):
    with pytest.raises(PersresError, match=f'no residual "{wrong}" \\(did you mean "{right}"\\?\\) in '):
        ResidualFolder(lambda: folder).find(wrong)


def test_a_name_that_is_near_to_none_is_not_guessed_at(folder):
    for name in ("zzz", "q" * 100_000, ""):
        with pytest.raises(PersresError) as error:
            ResidualFolder(lambda: folder).find(name)
        assert "did you mean" not in str(error.value)


def test_a_near_name_among_many_is_found_by_few_comparisons(monkeypatch):
    names = [f"concept{index:05}" for index in range(10_000)]
    index = module._Index([module.Entry(f"/{name}", name, name, module.Stamp(1, 1)) for name in names])
    compared, closest = [], module.difflib.get_close_matches

    def count(wanted, names, **more):
        compared.append(len(names))
        return closest(wanted, names, **more)

    monkeypatch.setattr(module.difflib, "get_close_matches", count)
    wrong = ("concept00x500", "conecpt00500", "oncept00500", "concept0500")
    assert [index.near(name) for name in wrong[:3]] == ["concept00500"] * 3 and index.near(wrong[3])
    assert max(compared) <= 4 * module.NEIGHBOURS


# -- what is read when


@pytest.fixture
def reads(monkeypatch):
    """What was opened for its header, hashed, and listed."""
    seen = {"headers": [], "hashes": [], "folders": []}

    def spy(owner, name, key):
        original = getattr(owner, name)

        def call(path, *more):
            seen[key].append(str(path))
            return original(path, *more)

        monkeypatch.setattr(owner, name, call)

    spy(module, "concept_of", "headers")
    spy(module, "file_hash", "hashes")
    spy(os, "scandir", "folders")
    return seen


def settle(folder):
    """Nothing in the folder changed just now."""
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, ns=(10**18 + 1, 10**18 + 1))


def test_a_missing_name_among_many_files_reads_nothing_again(folder, monkeypatch, reads):
    monkeypatch.setattr(module, "SWEPT", 1)
    settle(folder)
    residuals = ResidualFolder(lambda: folder)
    assert len(residuals.refresh()) == 2 and len(reads["headers"]) == 2
    before = {key: list(seen) for key, seen in reads.items()}
    for name in ("a", "b", "c"):
        with pytest.raises(PersresError, match="no residual"):
            residuals.find(name)
    assert reads == before
    # but a new file is seen
    write(folder / "deep" / "a.safetensors", value=3.0)
    assert value(residuals.load("a")) == 3


def test_a_refresh_reads_only_what_changed(folder, reads):
    residuals = ResidualFolder(lambda: folder)
    residuals.refresh()
    residuals.refresh()
    assert len(reads["headers"]) == 2
    write(folder / "rex.safetensors", "Max", value=5.0)
    assert value(residuals.load("Max")) == 5 and len(reads["headers"]) == 3


def test_a_file_written_over_in_place_gives_its_new_own_name(folder):
    residuals = ResidualFolder(lambda: folder)
    residuals.refresh()
    settle(folder)
    data = write(folder.parent / "max.safetensors", "Max", 5.0).read_bytes()
    (folder / "rex.safetensors").write_bytes(data)  # the folder's own time stays
    assert value(residuals.load("Max")) == 5


def test_what_will_be_refused_is_not_hashed(folder, reads):
    (folder / "bad.safetensors").write_bytes(b"no residual")
    with open(folder / "large.safetensors", "wb") as file:
        file.truncate(MAX_FILE + 1)  # sparse: takes no space
    residuals = ResidualFolder(lambda: folder)
    for name in ("bad", "large"):
        with pytest.raises(PersresError):
            residuals.load(name)
    with pytest.raises(PersresError, match="larger than 1024 MiB"):
        residuals.hash(residuals.find("large"))
    assert residuals.by_hash("zz") is None
    assert {os.path.basename(path) for path in reads["hashes"]} <= {"rex.safetensors", "mia.safetensors"}


def test_a_hash_outlives_the_process_and_not_the_file(folder, reads):
    kept = {}
    first = ResidualFolder(lambda: folder, hashes=kept).load("rex").hash
    assert ResidualFolder(lambda: folder, hashes=kept).load("rex").hash == first and len(reads["hashes"]) == 1
    path = write(folder / "rex.safetensors", "Rex of Rome", 5.0)
    os.utime(path, ns=(1, 1))  # older than what is kept
    assert ResidualFolder(lambda: folder, hashes=kept).load("rex").hash != first and len(reads["hashes"]) == 2


class Broken(dict):
    """A cache on a disk that is full or damaged."""

    def get(self, *_):
        raise OSError("damaged")

    def __setitem__(self, *_):
        raise OSError("full")


@pytest.mark.parametrize("kept", ["1 2", "", 3, "a b c", None])
def test_a_damaged_cache_of_hashes_costs_only_time(folder, kept):
    path = os.path.abspath(folder / "rex.safetensors")
    for hashes in (Broken(), {path: kept}):
        assert len(ResidualFolder(lambda: folder, hashes=hashes).load("rex").hash) == 64


# -- odd folders


def test_links_to_the_folder_itself_list_each_file_once(folder, reads):
    for name in ("again", "deep/up", "deep/self"):
        (folder / name).symlink_to(folder if "self" not in name else folder / "deep", target_is_directory=True)
    (folder / "loop").symlink_to("loop")
    (folder / "loop.safetensors").symlink_to("loop.safetensors")
    (folder / "above").symlink_to(folder.parent, target_is_directory=True)
    entries = ResidualFolder(lambda: folder).refresh()
    assert [entry.inside for entry in entries] == ["deep/mia", "rex"]
    assert len(reads["folders"]) == 2


def test_a_folder_elsewhere_is_followed_and_what_is_there_twice_has_its_own_name(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write(other / "max.safetensors", value=3.0)
    (folder / "elsewhere").symlink_to(other, target_is_directory=True)
    (folder / "a link").symlink_to(folder / "deep", target_is_directory=True)
    residuals = ResidualFolder(lambda: folder)
    assert [entry.inside for entry in residuals.refresh()] == ["deep/mia", "elsewhere/max", "rex"]
    assert value(residuals.load("max")) == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have no names here")
def test_nobody_waits_for_a_pipe(folder):
    os.mkfifo(folder / "pipe.safetensors")
    said = []

    def use():
        residuals = ResidualFolder(lambda: folder)
        for do in (residuals.load, lambda name: residuals.hash(residuals.find(name)), Residual.read_metadata):
            try:
                do("pipe" if do is not Residual.read_metadata else folder / "pipe.safetensors")
            except PersresError as error:
                said.append(str(error))

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    thread.join(60)
    assert len(said) == 3 and all("it is a pipe or a device, not a file" in sentence for sentence in said)


def test_threads_may_share_a_folder(folder):
    residuals, loaded, faults = ResidualFolder(lambda: folder), [], []
    start = threading.Barrier(8)

    def use(number):
        try:
            start.wait()
            for turn in range(30):
                if number == 0:
                    write(folder / "new" / f"{turn}.safetensors")
                loaded.append(residuals.load(("rex", "mia", "Rex of Rome")[turn % 3]))
                residuals.refresh()
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == [] and len({id(one) for one in loaded}) == 2 and len(residuals.entries) == 32
