"""Branches on the text encoders are what merged weights are, in transformers' CLIP and in OpenCLIP's."""

import pytest
import torch
from rounding import NETWORK, relative
from torch import nn

from lib_persres.lora.text_part import TextPart
from lib_persres.residual import Factors

WIDTH, WIDER, RANK = 16, 40, 3
PLACES = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (WIDTH, WIDTH),
    "self_attn.v_proj": (WIDTH, WIDTH),
    "self_attn.out_proj": (WIDTH, WIDTH),
    "mlp.fc1": (WIDTH, WIDER),
    "mlp.fc2": (WIDER, WIDTH),
}
SIDES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


class Block(nn.Module):
    """A layer as OpenCLIP has it."""

    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(WIDTH, WIDER))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(WIDER, WIDTH))

    def forward(self, x):
        x = x + self.attn(x, x, x, need_weights=False, attn_mask=None)[0]
        return x + self.mlp(x)


class OpenClip(nn.Module):
    def __init__(self, layers=2):
        super().__init__()
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(Block() for _ in range(layers))

    def forward(self, x):
        for block in self.transformer.resblocks:
            x = block(x)
        return x


def factors(seed, layers=(0, 1), places=tuple(PLACES)):
    generator = torch.Generator().manual_seed(seed)
    return {
        f"text_model.encoder.layers.{layer}.{place}": Factors(
            torch.randn(RANK, PLACES[place][0], generator=generator),
            torch.randn(PLACES[place][1], RANK, generator=generator) * 0.3,
        )
        for layer in layers
        for place in places
    }


def merge(model, files, strengths):
    for file, strength in zip(files, strengths):
        for path, f in file.items():
            layer, place = path.removeprefix("text_model.encoder.layers.").split(".", 1)
            block, delta = model.transformer.resblocks[int(layer)], strength * f.up @ f.down
            if place in SIDES:
                side = SIDES.index(place) * WIDTH
                block.attn.in_proj_weight.data[side : side + WIDTH] += delta
            elif place.endswith("out_proj"):
                block.attn.out_proj.weight.data += delta
            else:
                getattr(block.mlp, {"mlp.fc1": "c_fc", "mlp.fc2": "c_proj"}[place]).weight.data += delta


@pytest.mark.parametrize("places", [tuple(PLACES), ("self_attn.v_proj",), ("self_attn.out_proj",), ("mlp.fc1",)])
@torch.no_grad()
def test_in_open_clips_layers(places):
    torch.manual_seed(0)
    model, x = OpenClip().eval(), torch.randn(3, 5, WIDTH)
    files, strengths = [factors(1, places=places), factors(2, (1,), places)], [0.7, -0.4]
    base = model(x)
    with TextPart({"clip_g": model}, [{"clip_g": file} for file in files]) as part:
        assert part.unknown == [0, 0]
        assert torch.equal(model(x), base)  # until it is told to act
        part.strengths = strengths
        found = model(x)
        part.strengths = [0.0, 0.0]
        assert torch.equal(model(x), base)
    assert torch.equal(model(x), base)
    assert not any(module._forward_hooks for module in model.modules())
    merge(model, files, strengths)
    assert relative(found, model(x)) < NETWORK
    assert relative(found, base) > 1e-2


def test_what_an_encoder_has_not_is_counted():
    model = OpenClip(1)
    file = {"clip_g": factors(1), "clip_l": factors(1, (0,))}
    file["clip_g"]["text_model.encoder.layers.0.mlp.fc1"] = Factors(torch.ones(2, 7), torch.ones(WIDER, 2))
    assert TextPart({"clip_g": model}, [file]).unknown == [len(PLACES) + 1 + len(PLACES)]


@torch.no_grad()
def test_a_failure_leaves_the_weights_as_they_were():
    torch.manual_seed(0)
    model, x = OpenClip().eval(), torch.randn(1, 5, WIDTH)
    base = model(x)
    with TextPart({"": model}, [{"": factors(1)}]) as part:
        part.strengths = [1.0]
        with pytest.raises(RuntimeError):
            model(torch.randn(1, 5, WIDTH + 1))
    assert torch.equal(model(x), base)
