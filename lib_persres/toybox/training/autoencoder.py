"""The autoencoder of 128×128 pictures: f = 8, four channels, 64 wide at the top.

Its norms have 32 groups, over few channels: they divide even colours away, unless what they see is small against the
root of their ε (1e-6), where they are linear. So the layers whose sum the last norms of encoder and decoder see are
trained as multiples of small numbers, and at 64 channels a group has two, whose difference passes a norm.
The encoder has no residual block before its middle, which makes it cheap enough to encode scenes as they come.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils import parametrize

from ...standalone.modules import AutoencoderKL
from .reconstruction import reconstruction_errors
from .state import load_state, save_state

DDCONFIG = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 128,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 64,
    "ch_mult": [1, 1, 1, 2],  # without residual blocks the encoder stays as wide as its first convolution
    "num_res_blocks": 0,
    "attn_resolutions": [],
    "dropout": 0.0,
}

KL_WEIGHT = 1e-3
EDGE_WEIGHT = 0.5
FIRST_LOGVAR = -5.0  # as much noise as signal, as at random weights, costs 200 steps
COLOUR_WEIGHT = 1.0
LATENT_NOISE = 0.05  # what a drawn latent is off by, at least: the decoder has to stand it


#: What is summed up to what the last norm sees, and on how small a scale.
ENCODER_SCALE, DECODER_SCALE = 2.0**-12, 2.0**-12
NORM_ROOT = 1e-3  # what a norm divides by where it is linear, √ε


class Scaled(torch.nn.Module):
    """Parametrizes a weight as a small multiple of what is learned."""

    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale

    def forward(self, learned: torch.Tensor) -> torch.Tensor:
        return learned * self.scale

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / self.scale


def learn_small(vae: AutoencoderKL, fresh: bool = False) -> None:
    """Parametrize the small layers; fresh: their random weights become small, else the weights stay what they are."""
    encoder, decoder = vae.encoder, vae.decoder
    ends = [encoder.conv_in, encoder.mid.block_1.conv2, encoder.mid.attn_1.proj_out, encoder.mid.block_2.conv2]
    small = [(layer, name, ENCODER_SCALE) for layer in ends for name in ("weight", "bias")]
    # the encoder's other layers pass on what is small already, and add their biases
    small += [(level.downsample.conv, "bias", ENCODER_SCALE) for level in encoder.down if hasattr(level, "downsample")]
    ends = [decoder.up[1].upsample.conv, decoder.up[0].block[-1].conv2]
    small += [(layer, name, DECODER_SCALE) for layer in ends for name in ("weight", "bias")]
    for layer, name, scale in small:
        if fresh:
            getattr(layer, name).data *= scale
        parametrize.register_parametrization(layer, name, Scaled(scale))


@torch.no_grad()
def begin_with_averages(vae: AutoencoderKL) -> None:
    """Set fresh weights so that latents are the RGB averages of 8×8 pixels, almost without noise, and decode to these.

    A colour c is carried by the channels 2c and 2c + 1, as itself and negated, which a linear norm keeps, and a silu as
    well: silu(x) - silu(-x) = x. All that is added to these channels on their way is 0 at first. For `learn_small`.
    """
    encoder, decoder = vae.encoder, vae.decoder
    blocks = [part for side in (encoder, decoder) for part in (side.mid.block_1, side.mid.block_2)]
    blocks += [block for level in decoder.up for block in level.block]
    for layer in [block.conv2 for block in blocks] + [encoder.mid.attn_1.proj_out, decoder.mid.attn_1.proj_out]:
        _carry(layer, {})
    signed = {2 * colour + negated: (colour, 1.0 - 2 * negated) for colour in range(3) for negated in (0, 1)}
    same = {channel: (channel, 1.0) for channel in signed}
    _carry(encoder.conv_in, signed)
    for level in encoder.down[:-1]:
        _carry(level.downsample.conv, same)
        for channel in same:  # the mean of 2×2 pixels: rows and columns 0 and 1, since ldm pads the far ends
            level.downsample.conv.weight[channel, channel] = 0.0
            level.downsample.conv.weight[channel, channel, :2, :2] = 0.25
    _carry(decoder.conv_in, signed)
    for level in decoder.up[1:]:
        _carry(level.upsample.conv, same)
    for block in (block for level in decoder.up for block in level.block if hasattr(block, "nin_shortcut")):
        _carry(block.nin_shortcut, same)
    for layer, scale in ((encoder.conv_out, ENCODER_SCALE), (decoder.conv_out, DECODER_SCALE)):
        _carry(layer, {colour: (2 * colour, 0.0) for colour in range(3)})
        for colour in range(3):
            middle = layer.weight[colour, 2 * colour : 2 * colour + 2, 1, 1]
            middle += torch.tensor([1.0, -1.0]) * NORM_ROOT / scale
    for layer in (vae.quant_conv, vae.post_quant_conv):
        _carry(layer, {channel: (channel, 1.0) for channel in range(4)})
    vae.quant_conv.bias[4:] = FIRST_LOGVAR


def _carry(layer: torch.nn.Conv2d, sources: dict[int, tuple[int, float]]) -> None:
    """Let output channels be input channels times a factor; without any, channels 0 to 5 are 0."""
    rows = list(sources) or list(range(6))
    layer.weight[rows], layer.bias[rows] = 0.0, 0.0
    middle = layer.kernel_size[0] // 2
    for channel, (source, factor) in sources.items():
        layer.weight[channel, source, middle, middle] = factor


def fold(vae: AutoencoderKL) -> AutoencoderKL:
    """Back to plain weights, of ldm's names."""
    for layer in vae.modules():
        for name in list(getattr(layer, "parametrizations", ())):
            parametrize.remove_parametrizations(layer, name)
    return vae


def train_autoencoder(
    pictures: np.ndarray,
    folder: Path,
    *,
    steps: int,
    batch: int = 4,
    lr: float = 1e-3,
    seed: int = 0,
    log_every: int = 50,
    save_every: int = 100,
    ddconfig: dict | None = None,
    device: torch.device | str = "cpu",
) -> AutoencoderKL:
    """Train (or go on training) on pictures, uint8 (n,128,128,3); the state lies in `folder`/autoencoder.pt.

    The first three latent channels are tied to the 8×8-averaged RGB at the start, which gives colours at once; the
    tie fades until half of the training. A few pictures are measured and not learned from.
    """
    torch.manual_seed(seed)
    model = AutoencoderKL(ddconfig or DDCONFIG, 4).train()
    begin_with_averages(model)
    learn_small(model, fresh=True)
    model.to(device, memory_format=torch.channels_last)
    kind = torch.device(device).type
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, betas=(0.9, 0.99))
    learned, held_out = _split(pictures)
    file = folder / "autoencoder.pt"
    done = load_state(file, model, optimizer)
    log = open(folder / "autoencoder.log", "a")
    started = time.perf_counter()
    for step in range(done, steps):
        rng = np.random.default_rng([seed, step])
        torch.manual_seed(seed * 1_000_003 + step)
        x = _batch(learned, rng, batch, device)
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 100) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        with torch.autocast(kind, torch.bfloat16):
            mean, std = model.moments(x)
            mean, std = mean.float(), std.float()
            noise = (std.square() + LATENT_NOISE**2).sqrt() * torch.randn_like(mean)
            decoded = model.decode(mean + noise).float()
        kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.clamp_min(1e-12).log()).mean()
        tie = (mean[:, :3] - F.avg_pool2d(x, 8)).square().mean()
        tie_weight = max(0.0, 1 - step / (0.5 * steps))
        distance, parts = _distance(decoded, x)
        loss = distance + KL_WEIGHT * kl + tie_weight * tie
        _step(optimizer, loss, model.parameters())
        if (step + 1) % log_every == 0:
            said = " ".join(f"{name} {part:.4f}" for name, part in parts.items())
            line = f"{step + 1} {said} kl {kl:.3f} tie {tie:.4f} latent std {mean.std():.3f} noise {std.mean():.4f}"
            print(line, f"{time.perf_counter() - started:.0f}s", file=log, flush=True)
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save_state(file, step + 1, model, optimizer)
            print(step + 1, reconstruction_errors(model.eval(), held_out), file=log, flush=True)
            model.train()
    log.close()
    return fold(model.eval())


def _split(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is learned from, and what is measured."""
    few = min(64, len(pictures) // 10)
    return pictures[:-few], pictures[-few:]


def _batch(pictures: np.ndarray, rng: np.random.Generator, count: int, device) -> torch.Tensor:
    """Some of the pictures, (count,3,128,128) in [-1,1]."""
    rows = np.sort(rng.choice(len(pictures), min(count, len(pictures)), replace=False))
    chosen = torch.from_numpy(pictures[rows]).to(device)
    return chosen.permute(0, 3, 1, 2).float() / 127.5 - 1


def _distance(decoded: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """How far the pictures are apart, and the parts of that: pixels, edges and 8×8 averages."""
    difference = decoded - x
    l1 = difference.abs().mean()
    edges = sum((decoded.diff(dim=d) - x.diff(dim=d)).abs().mean() for d in (2, 3))
    colour = F.avg_pool2d(difference, 8).abs().mean()
    total = l1 + difference.square().mean() + EDGE_WEIGHT * edges + COLOUR_WEIGHT * colour
    return total, {"l1": l1, "edges": edges, "colour": colour}


def _step(optimizer, loss: torch.Tensor, parameters) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
