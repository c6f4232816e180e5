"""`train`: the file that it writes, what interrupts it, and what it refuses."""

import pytest

pytest.importorskip("ldm")

import torch
from command_runs import refused, train
from safetensors.torch import load_file

from lib_persres.commands import common, main
from lib_persres.commands.train import check_class, check_name
from lib_persres.errors import PersresError
from lib_persres.residual import Residual
from lib_persres.sizes import default_resolution


def test_training_writes_a_file_that_knows_how_it_was_made(residual, checkpoint, photos):
    metadata = Residual.load(residual).metadata
    assert (metadata.concept, metadata.macro_class, metadata.steps, metadata.seed) == ("rex", "dog", 2, 0)
    assert metadata.recipe["name"] == "paper" and metadata.recipe["stages"][0]["batch"] == 1
    assert metadata.recipe["resolution"] == 64  # 8 · image_size
    assert len(metadata.image_hashes) == len(list(photos.iterdir())) == 2
    assert [path.name for path in residual.parent.iterdir()] == ["rex.safetensors"]


@pytest.fixture
def one_thread():
    """On several the libraries may cut a sum into other parts when the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_same_seed_writes_the_same_file_but_for_its_time(one_thread, checkpoint, photos, tmp_path, capsys):
    residual = tmp_path / "old" / "rex.safetensors"
    assert train(checkpoint, photos, tmp_path / "old") == 0
    assert train(checkpoint, photos, tmp_path / "new") == 0
    again = tmp_path / "new" / "rex.safetensors"  # --out is a folder here
    assert str(again) in capsys.readouterr().out
    first, second = load_file(residual), load_file(again)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    headers = [Residual.read_metadata(path).to_strings() for path in (residual, again)]
    for header in headers:
        del header["created"]
    assert headers[0] == headers[1]
    assert train(checkpoint, photos, tmp_path / "other", "--seed", "1") == 0
    other = load_file(tmp_path / "other" / "rex.safetensors")
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_second_concept_of_a_class_gets_another_identifier(residual, checkpoint, photos, tmp_path):
    (tmp_path / "old.safetensors").write_bytes(residual.read_bytes())
    (tmp_path / "broken.safetensors").write_bytes(b"no residual")
    assert train(checkpoint, photos, tmp_path / "rex.safetensors") == 0
    identifiers = {Residual.read_metadata(tmp_path / f"{name}.safetensors").identifier for name in ("old", "rex")}
    assert len(identifiers) == 2


@pytest.mark.parametrize("name", ["", "a/b", "a\\b", "../rex", ".rex", "rex:1", "a<b", "a=b", " rex", "x" * 101])
def test_names_that_would_be_misread_are_refused(name):
    with pytest.raises(PersresError, match="name"):
        check_name(name)


def test_ordinary_names_and_classes_are_allowed():
    for name in ("rex", "Rex 2", "my-dog_v1.5", "köter", "犬"):
        check_name(name)
    assert check_class(" teddy bear ") == "teddy bear"
    for macro_class in ("", " ", "dog:1", "(dog)", "dog, cat", '"dog"'):
        with pytest.raises(PersresError, match="class"):
            check_class(macro_class)


def test_what_cannot_be_trained_is_refused_before_the_model_is_loaded(
    residual, checkpoint, photos, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("lib_persres.standalone.checkpoint.load", lambda *_, **__: pytest.fail("it was loaded"))
    good = {
        "--checkpoint": checkpoint,
        "--images": photos,
        "--name": "rex",
        "--class": "dog",
        "--out": tmp_path,
    }

    def refusal(**changes):
        options = {**good, **{f"--{name}": value for name, value in changes.items()}}
        return refused(capsys, ["train", *(part for pair in options.items() for part in pair)])

    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    assert "a/b" in refusal(name="a/b")
    assert "nowhere" in refusal(images="nowhere")
    assert "no images" in refusal(images=tmp_path / "empty")
    assert "already exists" in refusal(out=residual)
    assert "needed" in refusal(out=tmp_path / "file" / "rex.safetensors")
    for options, said in (
        ({"batch": "1024", "resolution": "4096"}, "1,024 rows of a step at 4096×4096 are 17,179 million pixels"),
        ({"crops": "100", "resolution": "4096"}, "101 views of a photo at 4096×4096"),
        ({"lr": "1e-320"}, "between 1e-10 and 1"),
    ):
        assert said in refusal(**options)
    for name in ("rex.pt", "rex.png", "rex.JPG", "rex.CKPT", "rex.heic"):
        assert "must end in" in refusal(out=tmp_path / name)
    assert "nowhere.ckpt" in refusal(checkpoint="nowhere.ckpt")
    assert "template" in refusal(template="a {identifier} {thing}")
    assert "never be learned" in refusal(template="a photo of a {macro_class}")
    assert "learning rate" in refusal(lr="7")
    assert "rank" in refusal(rank="many")
    assert "3 stages with steps" in refusal(recipe="attndreambooth", steps="5")
    assert "no use for --class-images" in refusal(**{"class-images": photos})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]
    assert main(["train", "--images", str(photos), "--name", "rex", "--class", "dog", "--steps", "0"]) == 2


def test_what_does_not_fit_the_model_is_refused(checkpoint, photos, tmp_path, capsys):
    train(checkpoint, photos, tmp_path, "--resolution", "72")
    assert "multiple of 16" in capsys.readouterr().err
    train(checkpoint, photos, tmp_path, "--device", "abacus")
    assert "abacus" in capsys.readouterr().err
    train(checkpoint, photos, tmp_path, "--identifier", "a b")
    assert "identifier" in capsys.readouterr().err
    hidden = "a photo of a thing" + " thing" * 80 + " {identifier} {macro_class}"
    for template in (hidden, "a photo of a{identifier}b"):
        train(checkpoint, photos, tmp_path, "--template", template)
        assert "a word of its own among the first 75 tokens" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_toybox_name_stands_for_the_shipped_checkpoint(monkeypatch, tmp_path):
    monkeypatch.setattr(common, "TOYBOX_CHECKPOINT", tmp_path / "toybox.safetensors")
    with pytest.raises(PersresError, match="Toybox checkpoint"):
        common.checkpoint_path("toybox")
    (tmp_path / "toybox.safetensors").write_bytes(b"")
    assert common.is_toybox(common.checkpoint_path("toybox"))


def test_default_resolution_is_the_models():
    assert default_resolution({"image_size": 16, "model_channels": 64}) == 128
    assert default_resolution({"image_size": 32, "model_channels": 320}) == 512
    assert default_resolution({"image_size": 64, "model_channels": 320}) == 512
