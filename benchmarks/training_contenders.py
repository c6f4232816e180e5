"""Three trainers on the same model with random weights, of SD1's size, each in a process of its own.

    persres   this project's `Trainer`
    plain     its mathematics in a plain loop: the model's own layers, torch's defaults
    peer      diffusers' UNet and autoencoder with peft's LoRA of rank 16 on all attentions

Each encodes the same pictures once, and the prompt once, then makes steps of Adam on the noise's mean square.
The process reads a line for each thing to do, "setup" or "steps N", and answers with a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from lib_persres.branch import Branches
from lib_persres.concepts import Use
from lib_persres.errors import PersresError
from lib_persres.evaluation.drawing import peak_bytes
from lib_persres.plan import Plans, guidance_rows
from lib_persres.residual import Factors, Residual
from lib_persres.standalone.checkpoint import StableDiffusion, alphas_cumprod
from lib_persres.standalone.modules import AutoencoderKL, build_unet
from lib_persres.standalone.text_encoder import TextEncoder
from lib_persres.standalone.tokenizer import Tokenizer
from lib_persres.training.images import Photo
from lib_persres.training.objective import noised
from lib_persres.training.precision import PRECISIONS
from lib_persres.training.recipe import Recipe, Stage
from lib_persres.training.trainer import Trainer

from .model_sizes import SD1, SIZES, ModelSize

PHOTOS = 5
PROMPT = "a photo of a phol dog"


def random_weights(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The model, frozen, with small weights of its own instead of none (meta)."""
    model = model.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    for weight in model.parameters():
        weight.uniform_(-0.02, 0.02)
    for name, buffer in model.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
    return model


class Contender(ABC):
    """setup: all that comes before the first step, the models' loading left out. step: one of the optimizer."""

    def __init__(self, device: torch.device, dtype: torch.dtype, size: ModelSize, side: int, batch: int, total: int):
        self.device, self.dtype, self.size = device, dtype, size
        self.side, self.batch, self.total = side, batch, total
        generator = torch.Generator().manual_seed(0)
        self.pictures = torch.rand(PHOTOS, 3, side, side, generator=generator) * 2 - 1
        self.generator = torch.Generator().manual_seed(1)
        self.alphas = alphas_cumprod(0.00085, 0.012, 1000).to(device)
        tokenizer = Tokenizer.find()
        with torch.device("meta"):
            text = TextEncoder(self.size.text, tokenizer)
        self.text = random_weights(text, device, dtype)
        self.load()

    @abstractmethod
    def load(self) -> None:
        """The models."""

    @abstractmethod
    def setup(self) -> None: ...

    @abstractmethod
    def step(self) -> None: ...

    @torch.no_grad()
    def context(self) -> torch.Tensor:
        return self.text(self.text.tokenize([PROMPT]))

    def draw(self, mean: torch.Tensor, std: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows = torch.randint(len(mean), (self.batch,), generator=self.generator).to(self.device)
        z = mean[rows] + std[rows] * torch.randn(mean[rows].shape, generator=self.generator).to(mean)
        t = torch.randint(1000, (self.batch,), generator=self.generator).to(self.device)
        noise = torch.randn(z.shape, generator=self.generator).to(z)
        return noised(z, t, noise, self.alphas), t, noise


class Persres(Contender):
    def load(self) -> None:
        with torch.device("meta"):
            unet, vae = build_unet(self.size.unet), AutoencoderKL(self.size.ddconfig, 4)
        self.host = StableDiffusion(
            unet=random_weights(unet, self.device, self.dtype),
            vae=random_weights(vae, self.device, torch.float32),
            texts={"": self.text},
            scale_factor=0.18215,
            alphas_cumprod=self.alphas,
            device=self.device,
            dtype=self.dtype,
            path=Path(__file__),  # whose hash the residual would name
        )

    def setup(self, checkpointing: bool = False) -> None:
        pixels = ((self.pictures + 1) * 127.5).byte().permute(0, 2, 3, 1).numpy()
        photos = [Photo(Image.fromarray(image), Path(str(i)), str(i)) for i, image in enumerate(pixels)]
        recipe = Recipe("speed", "", (Stage(steps=self.total, batch=self.batch),), crops=0)
        options = {"resolution": self.side, "identifier": "phol", "checkpointing": checkpointing}
        self.trainer = Trainer(self.host, photos, "speed", "dog", recipe, **options).__enter__()
        if self.trainer.notes:
            raise PersresError(" ".join(self.trainer.notes))

    def step(self) -> None:
        self.trainer.step()


class Plain(Persres):
    def setup(self) -> None:
        self.mean, self.std = self.host.encode_images(self.pictures)
        self.condition = self.context().expand(self.batch, -1, -1)
        start = Residual.initialise(self.host.unet)
        factors = {
            name: Factors(*(nn.Parameter(part.to(self.device)) for part in (f.down, f.up)))
            for name, f in start.factors.items()
        }
        weights = [weight for f in factors.values() for weight in (f.down, f.up)]
        self.optimizer = torch.optim.Adam(weights, lr=1e-3)
        self.branches = Branches(self.host.unet, [Residual(factors)]).attach()

    def step(self) -> None:
        z_t, t, noise = self.draw(self.mean, self.std)
        self.optimizer.zero_grad()
        plans = Plans([[Use(1.0, False)]] * self.batch)
        self.branches.plan = plans.plan(guidance_rows(self.batch, guided=False), 0, self.device)
        eps = self.host.unet(z_t, timesteps=t, context=self.condition)
        loss = (eps.float() - noise).square().mean()
        loss.backward()
        self.branches.plan = None
        self.optimizer.step()
        loss.item()


class Peer(Contender):
    def load(self) -> None:
        try:
            import diffusers
            import peft
        except ImportError as error:
            raise PersresError(
                f"The peer is not installed ({error.name}): pip install -r requirements-peer.txt into the "
                "environment that this runs in."
            ) from error
        with torch.device("meta"):
            unet, vae = self.networks(diffusers)
        self.unet = random_weights(unet, self.device, self.dtype)
        self.vae = random_weights(vae, self.device, torch.float32)
        self.adapter = peft.LoraConfig(
            r=16, lora_alpha=16, init_lora_weights="gaussian", target_modules=["to_k", "to_q", "to_v", "to_out.0"]
        )

    def networks(self, diffusers) -> tuple[nn.Module, nn.Module]:
        unet, vae = self.size.unet, self.size.ddconfig
        levels = len(unet["channel_mult"])
        plain = 2 ** (levels - 1) not in unet["attention_resolutions"]  # whether the smallest has no attention
        down, up = (
            ["CrossAttnDownBlock2D"] * (levels - plain) + ["DownBlock2D"] * plain,
            ["UpBlock2D"] * plain + ["CrossAttnUpBlock2D"] * (levels - plain),
        )
        return (
            diffusers.UNet2DConditionModel(
                sample_size=self.size.latent,
                cross_attention_dim=self.size.context,
                block_out_channels=[unet["model_channels"] * factor for factor in unet["channel_mult"]],
                layers_per_block=unet["num_res_blocks"],
                attention_head_dim=unet["num_heads"],  # diffusers' name for their number
                down_block_types=down,
                up_block_types=up,
            ),
            diffusers.AutoencoderKL(
                down_block_types=["DownEncoderBlock2D"] * len(vae["ch_mult"]),
                up_block_types=["UpDecoderBlock2D"] * len(vae["ch_mult"]),
                block_out_channels=[vae["ch"] * factor for factor in vae["ch_mult"]],
                layers_per_block=vae["num_res_blocks"],
                latent_channels=4,
            ),
        )

    def setup(self) -> None:
        with torch.no_grad():
            posterior = [self.vae.encode(picture[None].to(self.device)).latent_dist for picture in self.pictures]
        self.mean = torch.cat([p.mean for p in posterior]) * 0.18215
        self.std = torch.cat([p.std for p in posterior]) * 0.18215
        self.condition = self.context().expand(self.batch, -1, -1)
        self.unet.add_adapter(self.adapter)
        weights = [weight for weight in self.unet.parameters() if weight.requires_grad]
        for weight in weights:  # as diffusers' own script does
            weight.data = weight.data.float()
        self.optimizer = torch.optim.Adam(weights, lr=1e-4)

    def step(self) -> None:
        z_t, t, noise = self.draw(self.mean, self.std)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            eps = self.unet(z_t.to(self.dtype), t, self.condition.to(self.dtype)).sample
            loss = (eps.float() - noise).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss.item()


CONTENDERS = {"persres": Persres, "plain": Plain, "peer": Peer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--size", choices=SIZES, default=SD1.name)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--total", type=int, default=150)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        contender = CONTENDERS[options.name](
            device,
            getattr(torch, options.precision),
            SIZES[options.size],
            options.side,
            options.batch,
            options.total,
        )
        print(json.dumps({"loaded": peak_bytes(device)}), flush=True)
        for line in sys.stdin:
            what, _, count = line.strip().partition(" ")
            seconds = []
            for _ in range(int(count or 1)):
                started = time.perf_counter()
                getattr(contender, what)()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - started)
            answer = {"seconds": statistics.median(seconds), "first": seconds[0], "peak": peak_bytes(device)}
            print(json.dumps(answer), flush=True)
    except PersresError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
