"""`generate`: its pictures and what they say of themselves, and the residuals that it finds by name."""

from pathlib import Path

import pytest

pytest.importorskip("ldm")

from command_runs import PROMPT, generate, refused
from PIL import Image

from lib_persres.commands import main
from lib_persres.commands.pictures import PictureFolder, infotext, write_png
from lib_persres.errors import PersresError
from lib_persres.residual_folder import ResidualFolder


def parameters(path):
    with Image.open(path) as image:
        return image.text["parameters"]


# -- generate ------------------------------------------------------------------------------------------------


def test_pictures_carry_their_settings(checkpoint, residual, tmp_path, capsys):
    out = tmp_path / "outputs"
    assert generate(checkpoint, residual, out, "--lag", "--masks", "--seeds", "3", "5-6", "--batch", "2") == 0
    names = ["00000-3.png", "00001-5.png", "00002-6.png"]
    masks = [name.replace(".png", "-mask.png") for name in names]
    assert sorted(path.name for path in out.iterdir()) == sorted(names + masks)
    assert [Path(line).name for line in capsys.readouterr().out.split()][:2] == [names[0], masks[0]]
    prompt, settings = parameters(out / names[1]).split("\n")
    assert prompt == PROMPT
    assert settings.startswith("Steps: 2, Sampler: DDIM, CFG scale: 6, Seed: 5, Size: 64x64, Model hash: ")
    assert 'Persres: "rex: 0.8 (' in settings and "Persres LAG: fitted/mirror" in settings
    assert "problems" not in settings
    with Image.open(out / names[0]) as picture, Image.open(out / masks[0]) as mask:
        assert picture.size == mask.size == (64, 64)


def test_pictures_are_never_replaced_and_the_same_for_a_seed(checkpoint, residual, tmp_path):
    for more in ((), (), ("--seeds", "1")):
        assert generate(checkpoint, residual, tmp_path, *more) == 0
    names = ["00000-0.png", "00001-0.png", "00002-1.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    first, second, third = (Image.open(tmp_path / name).tobytes() for name in names)
    assert first == second != third


def test_problems_are_told_on_stderr_and_in_the_picture(checkpoint, residual, tmp_path, capsys):
    prompt = "<persres:rex:1:lag=on> a photo of a cat"
    assert generate(checkpoint, residual, tmp_path, "--masks", "--negative", "a dog", prompt=prompt) == 0
    error = capsys.readouterr().err
    assert "warning: " in error and "is not in the prompt" in error and "no masks" in error
    text = parameters(tmp_path / "00000-0.png")
    assert "\nNegative prompt: a dog\n" in text and 'Persres problems: "' in text
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "prompt, options, why",
    [
        ("<persres:rex:0> a V* dog", ["--lag"], "<persres:rex:0> acts at strength 0: give it one such as 1.0."),
        ("<persres:rex:start=0.99> a V* dog", ["--lag"], "none of the 2 steps lies between the start= and the end= of"),
        ("<persres:rex> a dog", ["--lag"], "<persres:rex> has no place in the prompt: write V* where it is to be."),
        ("<persres:rex> a V* dog", [], "no concept was drawn with LAG: add --lag."),
        (
            "<persres:rex> a hat like the style of V* dog",
            ["--lag", "auto"],
            'LAG auto is off, "the style of V*", for <',
        ),
        ("a dog", ["--lag"], "the prompt has no concept's tag, and LAG confines concepts."),
    ],
)
def test_where_there_are_no_masks_the_one_reason_is_told(prompt, options, why, checkpoint, residual, tmp_path, capsys):
    assert generate(checkpoint, residual, tmp_path, "--masks", *options, prompt=prompt) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["00000-0.png"]
    assert f"There are no masks to show, since {why}" in capsys.readouterr().err


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_told_to_be_one(prompt, checkpoint, residual, tmp_path, capsys):
    assert generate(checkpoint, residual, tmp_path, prompt=prompt) == 0
    assert capsys.readouterr().err.count("warning: The prompt is empty, so the pictures show whatever") == 1


def test_a_picture_that_is_not_finite_is_a_sentence_and_no_file(checkpoint, residual, tmp_path, capsys):
    assert generate(checkpoint, residual, tmp_path, "--guidance", "1e300", prompt="a dog") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "not finite" in error and "guidance" in error and not list(tmp_path.iterdir())


def test_a_prompt_that_is_not_utf8_is_a_sentence(checkpoint, residual, tmp_path, capsys):
    for more in ({"prompt": "a \udcff dog"}, {"more": ["--negative", "\udcff"]}):
        assert generate(checkpoint, residual, tmp_path, *more.pop("more", []), **more) == 2
        error = capsys.readouterr().err
        assert "is not in UTF-8" in error and "�" in error and "udcff" not in error
    assert generate(checkpoint, residual, tmp_path, prompt="a \x1b[2J dog") == 2
    assert "has a control character (U+001B)" in capsys.readouterr().err


def test_what_only_the_webui_understands_is_said_and_kept_in_the_picture(checkpoint, residual, tmp_path, capsys):
    more = ["--negative", "<lora:x:1> (bad:1.2)"]
    assert generate(checkpoint, residual, tmp_path, *more, prompt="a (dog:1.3) AND a [cat:dog:0.5]") == 0
    error = capsys.readouterr().err
    assert error.count("warning: ") == 3 and "AND was read as a word" in error and "negative prompt" in error
    assert parameters(tmp_path / "00000-0.png").startswith("a (dog:1.3) AND a [cat:dog:0.5]\n")


@pytest.mark.parametrize(
    "prompt, said",
    [
        ("a V* dog and a V3* cat", "V3* stands for the third concept, but the prompt names only 1 concept"),
        ("a V* dog <persres:tom a V2* cat", '"<persres:tom a V2* cat" in the prompt is no tag, since'),
        ("a (x:1.2.3) dog", "has no number"),
        ("a (x:" + "9" * 400 + ") dog", "no bounds"),
    ],
)
def test_what_cannot_be_drawn_is_told_before_a_model_is_loaded(prompt, said, residual, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lib_persres.commands.generate.load_model", lambda *_: pytest.fail("a model was loaded"))
    command = ["generate", "--residuals", residual.parent, "--out", tmp_path / "new"]
    assert said in refused(capsys, [*command, "--prompt", f"<persres:rex> {prompt}"])
    said = said.replace("in the prompt", "in the negative prompt")
    assert said in refused(capsys, [*command, "--prompt", "<persres:rex> V* dog", "--negative", prompt])
    assert not (tmp_path / "new").exists()


def test_warnings_come_before_the_work(checkpoint, residual, tmp_path, capsys, monkeypatch):
    from lib_persres.commands import generate as command
    from lib_persres.standalone import generate as standalone

    before = []
    load, draw = command.load_model, standalone.draw
    monkeypatch.setattr(command, "load_model", lambda *args: [before.append(capsys.readouterr().err), load(*args)][1])
    monkeypatch.setattr(standalone, "draw", lambda *args: [before.append(capsys.readouterr().err), draw(*args)][1])
    prompt = "<persres:rex:1> a photo of a v* cat, (big"
    assert generate(checkpoint, residual, tmp_path, "--seeds", "0-1", "--batch", "1", prompt=prompt) == 0
    read, prepared, again = before
    assert read.count("warning: ") == 2 and "write V*, with a capital V" in read and "is never closed" in read
    assert prepared.count("warning: ") == 1 and "its V* is not in the prompt" in prepared
    assert "warning" not in again + capsys.readouterr().err


def test_pictures_without_concepts_say_nothing_of_them(checkpoint, residual, tmp_path):
    assert generate(checkpoint, residual, tmp_path, "--width", "32", "--guidance", "1", prompt="a dog") == 0
    text = parameters(tmp_path / "00000-0.png")
    assert "Persres" not in text and "Size: 32x64" in text and "CFG scale: 1," in text


def test_prompts_that_cannot_be_drawn_are_refused(checkpoint, residual, tmp_path, capsys):
    command = [
        "generate",
        "--checkpoint",
        checkpoint,
        "--residuals",
        residual.parent,
        "--out",
        tmp_path / "new",
    ]
    assert "it holds rex" in refused(capsys, [*command, "--prompt", "<persres:max> a V* dog"])
    assert "strength" in refused(capsys, [*command, "--prompt", "<persres:rex:big> a V* dog"])
    assert "no mask 'mean'" in refused(capsys, [*command, "--prompt", "a dog", "--mask", "mean"])
    more = ["--seeds", "0-2000", "--batch", "1024", "--width", "4096", "--height", "4096"]
    assert "1,024 pictures at 4096×4096 are 17,179 million" in refused(capsys, [*command, "--prompt", "a dog", *more])
    assert not (tmp_path / "new").exists()
    assert "multiple of 16" in refused(capsys, [*command, "--prompt", "a dog", "--width", "72"])
    assert main([*map(str, command), "--prompt", "a dog", "--seeds", "7-3"]) == 2
    assert main([*map(str, command), "--prompt", "a dog", "--guidance", "nan"]) == 2


# -- residuals by name ---------------------------------------------------------------------------------------


def of(folder):
    return ResidualFolder(lambda: folder, anywhere=True, advice="name another with --residuals")


def test_a_residual_is_found_by_stem_path_or_its_own_name(residual, tmp_path):
    deep = tmp_path / "dogs" / "max.safetensors"
    deep.parent.mkdir()
    deep.write_bytes(residual.read_bytes())
    folder = of(tmp_path)
    names = ("max", "dogs/max", str(deep), str(deep.with_suffix("")), "rex")
    assert [folder.find(name).path for name in names] == [deep] * len(names)
    assert folder.load("max") is folder.load("dogs/max") and len(folder.load("max").short_hash) == 10
    other = tmp_path / "cats" / "max.safetensors"
    other.parent.mkdir()
    other.write_bytes(residual.read_bytes())
    with pytest.raises(PersresError, match='"max" is the name of 2 residuals: write one of cats/max, dogs/max'):
        folder.find("max")
    assert folder.find("dogs/max").path == deep


def test_what_there_is_instead_is_listed(tmp_path):
    for wanted, folder in (("does not exist, name another with --residuals", tmp_path / "none"), ("none", tmp_path)):
        with pytest.raises(PersresError, match=wanted):
            of(folder).find("rex")
    for index in range(12):
        (tmp_path / f"c{index:02}.safetensors").touch()
    with pytest.raises(PersresError, match="it holds c00, c01, .*c09 and 2 more"):
        of(tmp_path).find("rex")
    with pytest.raises(PersresError, match="is a file"):
        of(tmp_path / "c00.safetensors").find("rex")
    with pytest.raises(PersresError, match="neither here nor in"):
        of(tmp_path).find("dogs/rex")


# -- pictures ------------------------------------------------------------------------------------------------


def test_infotext_quotes_as_the_webui_does():
    text = infotext("a\nb", "", {"Steps": 2, "CFG scale": 6.5, "Persres": "rex: 1.0 (a)", "Gone": None})
    assert text == 'a\nb\nSteps: 2, CFG scale: 6.5, Persres: "rex: 1.0 (a)"'


def test_numbers_go_on_after_the_highest(tmp_path):
    image = Image.new("RGB", (8, 8))
    for name in ("00007-1.png", "00003-1.png", "notes.txt", "99-1.png"):
        (tmp_path / name).touch()
    folder = PictureFolder(tmp_path)
    (tmp_path / "00008-4.png").write_bytes(b"written meanwhile")
    assert folder.save(image, 4, "text").name == "00009-4.png"
    with pytest.raises(FileExistsError):
        write_png(tmp_path / "00008-4.png", image)
    assert (tmp_path / "00008-4.png").read_bytes() == b"written meanwhile"


def test_a_picture_is_whole_or_not_there(tmp_path, monkeypatch):
    image = Image.new("RGB", (8, 8))
    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):

        def fail(written, path, error=error):
            assert written.stat().st_size > 0
            raise error

        monkeypatch.setattr("lib_persres.writing.put_new", fail)
        with pytest.raises(type(error)):
            write_png(tmp_path / "1.png", image)
        assert list(tmp_path.iterdir()) == []


def test_a_file_is_new_on_a_disk_without_links_too(tmp_path, monkeypatch):
    def link(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("os.link", link)
    write_png(tmp_path / "1.png", Image.new("RGB", (8, 8)))
    with pytest.raises(FileExistsError):
        write_png(tmp_path / "1.png", Image.new("RGB", (8, 8)))
    with Image.open(tmp_path / "1.png") as image:
        image.load()
    assert [path.name for path in tmp_path.iterdir()] == ["1.png"]
