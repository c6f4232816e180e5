"""A tag names a residual, or one of the WebUI's LoRA files."""

import pytest
import torch
from safetensors.torch import save_file

from lib_persres.errors import PersresError
from lib_persres.lora.adapter import Adapter
from lib_persres.residual import Factors, Metadata, Residual
from lib_persres.webui.files import Files

NAME = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k"


def lora(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({f"{NAME}.lora_down.weight": torch.ones(2, 768), f"{NAME}.lora_up.weight": torch.ones(8, 2)}, path)


def residual(path):
    factors = {"input_blocks.1.1.proj_out": Factors(torch.ones(1, 8), torch.ones(8, 1))}
    Residual(factors, Metadata(concept="own", identifier="olis", macro_class="dog")).save(path)


@pytest.fixture
def files(tmp_path):
    residual(tmp_path / "persres" / "rex.safetensors")
    lora(tmp_path / "persres" / "here.safetensors")
    lora(tmp_path / "Lora" / "sub" / "there.safetensors")
    lora(tmp_path / "Lora" / "rex.safetensors")
    return Files(lambda: tmp_path / "persres", lambda: 4, {}, lambda: tmp_path / "Lora")


def test_a_name_is_a_residuals_first_and_else_a_lora_files(files):
    assert isinstance(files.load("here").residual, Adapter) and isinstance(files.load("there").residual, Adapter)
    assert not isinstance(files.load("rex").residual, Adapter)
    assert isinstance(files.load("lora/rex").residual, Adapter)
    assert files.load("sub/there") is files.load("there")
    assert files.load("there").hash != files.load("rex").hash


def test_a_name_that_nothing_has_is_told_with_the_nearest(files, tmp_path):
    with pytest.raises(PersresError, match="There is no residual"):
        files.load("nothing")
    with pytest.raises(PersresError, match="Lora"):
        files.load("lora/nothing")
    lora(tmp_path / "Lora" / "moonlight.safetensors")
    for wrong, right in (("rexx", "rex"), ("moonlihgt", "moonlight")):
        with pytest.raises(PersresError) as caught:
            files.load(wrong)
        assert f'"{wrong}" (did you mean "{right}"?)' in str(caught.value) and "nor a LoRA file" in str(caught.value)


def test_two_lora_files_of_one_name_are_told(files, tmp_path):
    lora(tmp_path / "Lora" / "other" / "there.safetensors")
    with pytest.raises(PersresError, match="other/there"):
        files.load("there")
    assert isinstance(files.load("other/there").residual, Adapter)


def test_without_a_lora_folder_residuals_alone_are_found(tmp_path):
    residual(tmp_path / "rex.safetensors")
    files = Files(lambda: tmp_path, lambda: 4, {}, lambda: None)
    assert files.load("rex").residual.metadata.identifier == "olis"
    with pytest.raises(PersresError, match="There is no residual"):
        files.load("lora/rex")


def test_its_metadata_are_there_without_its_numbers(files):
    metadata = files.find("here").metadata
    assert (metadata.concept, metadata.base_family, metadata.targets) == ("here", "SD1", "kv")


def test_lora_files_have_cards_among_the_residuals_where_they_are_asked_for(files, tmp_path):
    def names(each):
        return [entry.name for entry in each.listed()]

    assert names(files) == ["here", "rex"] and files.folders() == [tmp_path / "persres"]
    shown = Files(lambda: tmp_path / "persres", lambda: 4, {}, lambda: tmp_path / "Lora", lambda: True)
    assert names(shown) == ["here", "rex", "lora/rex", "lora/there"]
    assert shown.folders() == [tmp_path / "persres", tmp_path / "Lora"]
    for entry in shown.listed():
        assert [found.path for found in shown.meant(entry.name)] == [entry.path] == [shown.find(entry.name).path]
    assert [entry.path for entry in shown.meant("there")] == [tmp_path / "Lora" / "sub" / "there.safetensors"]
    assert shown.meant("nothing") == shown.meant("lora/nothing") == []
