"""Residuals, files of them and UNets that they fit, for the tests."""

import base64
import struct

import pytest
import safetensors.torch
import torch
from torch import nn

from lib_persres.errors import PersresError
from lib_persres.residual import Factors, Metadata, Residual

NAMES = ("input_blocks.1.1", "middle_block.1")
DOWN, UP = "input_blocks.1.1.proj_out.down", "input_blocks.1.1.proj_out.up"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + struct.pack(">II", 8, 8)
"""How a small picture begins."""
HEADER = {
    "format": "persres",
    "format_version": "1",
    "concept": "rex",
    "identifier": "olis",
    "macro_class": "dog",
}


class Transformer(nn.Module):
    """A block by structure."""

    def __init__(self, width, width_out=None, linear=False):
        super().__init__()
        make = nn.Linear if linear else (lambda a, b: nn.Conv2d(a, b, 1))
        self.proj_in, self.transformer_blocks = nn.Identity(), nn.ModuleList()
        self.proj_out = make(width, width_out or width)


def unet_of(blocks):
    """A module tree with these modules at these paths."""
    root = nn.Module()
    for path, block in blocks.items():
        parent = root
        *folders, last = path.split(".")
        for folder in folders:
            if not hasattr(parent, folder):
                parent.add_module(folder, nn.Module())
            parent = getattr(parent, folder)
        parent.add_module(last, block)
    return root


def small_unet(width=8):
    return unet_of({NAMES[0]: Transformer(width), NAMES[1]: Transformer(16, linear=True)})


def said(**fields):
    """Metadata with the words that a file must have, and these."""
    return Metadata(**{"identifier": "olis", "macro_class": "dog", **fields})


def sample_residual():
    """A trained-looking residual whose values fp16 holds exactly."""
    generator = torch.Generator().manual_seed(0)
    metadata = Metadata(
        concept="rex ☺",
        identifier="olis",
        macro_class="dog",
        base_hash="ab" * 32,
        recipe={"paper": {"learning_rate": 1e-3, "stages": [1, 2]}},
        steps=150,
        seed=2**63,
        loss={"last": 0.125},
        image_hashes=["0" * 64],
        preview=base64.b64encode(PNG + b"rest").decode(),
    )
    made = Residual.initialise(small_unet(), 4, generator, metadata)
    for target, f in made.factors.items():
        up = torch.randn(f.up.shape, generator=generator)
        made.factors[target] = Factors(f.down.half().float(), up.half().float())
    return made


def refusal(path, read=Residual.load):
    """The one sentence with which a file is refused; it names the file."""
    with pytest.raises(PersresError) as caught:
        read(path)
    text = str(caught.value)
    assert str(path) in text and text.endswith(".") and "\n" not in text
    return text


def tensors(rank=2, **changes):
    """A sound file's tensors, with some changed (or, None, missing)."""
    sound = {DOWN: torch.ones(rank, 8), UP: torch.ones(8, rank)}
    names = {"down": DOWN, "up": UP}
    changed = {**sound, **{names.get(name, name): tensor for name, tensor in changes.items()}}
    return {name: tensor for name, tensor in changed.items() if tensor is not None}


def write(path, state, header=HEADER):
    safetensors.torch.save_file(state, path, metadata=header)
    return path


def with_value(value):
    tensor = torch.ones(2, 8)
    tensor[1, 3] = value
    return tensor
