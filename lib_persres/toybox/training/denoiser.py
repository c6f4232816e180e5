"""UNet and text encoder, trained together on the latents of composed scenes, from nothing.

The learning rate of the long run is constant, so that it can go on for as long as there is time; a copy of any of its
states is cooled down, the rate falling to 0, to a model that can be shipped.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from ...standalone.modules import build_unet
from ...standalone.text_encoder import TextEncoder
from ...standalone.tokenizer import Tokenizer
from .captions import Batches, Captions
from .dataset import scale_of
from .state import load_state, save_state
from .step import Step

UNET = {
    "image_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 1,
    "channel_mult": [1, 2, 3],
    "num_heads": 4,
    "use_spatial_transformer": True,
    "transformer_depth": 1,
    "context_dim": 96,
    "use_checkpoint": True,
    "legacy": False,
}
TEXT = {
    "vocab_size": 49408,
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
    "projection_dim": 96,
}

BATCH = 32
EMA = 0.999
WARM_UP = 200


class Model(torch.nn.Module):
    """UNet and text encoder, trained as one."""

    def __init__(self, unet: dict = UNET, text: dict = TEXT, sdpa: bool = False):
        super().__init__()
        self.unet = build_unet(unet, sdpa=sdpa)  # on CPU the fused attention's backward is the slower one
        self.text = TextEncoder(text, Tokenizer.find())


def train_denoiser(
    latents: dict[str, torch.Tensor],
    captions: Captions,
    file: Path,
    *,
    steps: int,
    cooled_from: int | None = None,
    lr: float = 8e-4,
    seed: int = 0,
    batch: int = BATCH,
    build=None,
    begin_with=None,
    device: torch.device | str = "cpu",
    workers: int = 0,
    log_every: int = 50,
    save_every: int = 250,
    saved=None,
) -> Model:
    """Train (or go on training) to `steps`; returns the averaged model. The state lies in `file`, its log beside it.

    latents: what `dataset.encode_scenes` gives, of the scenes of `captions`. begin_with: a loaded checkpoint of these
    sizes, whose weights a training without a state starts from. cooled_from: the step from which on the rate falls,
    to 0 at `steps`. workers: processes that write captions. saved(step, average): called at each save.
    """
    torch.manual_seed(seed)
    build = build or partial(Model, sdpa=torch.device(device).type == "cuda")
    model, average = build().train().to(device), build().to(device)
    if begin_with is not None:
        model.unet.load_state_dict(begin_with.unet.state_dict())
        model.text.load_sd_state_dict(begin_with.text.sd_state_dict())
    average.load_state_dict(model.state_dict())
    weights, averages = list(model.parameters()), list(average.parameters())
    optimizer = torch.optim.AdamW(weights, lr=lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    done = load_state(file, model, optimizer, average=average)
    scale = scale_of(latents)
    step_of = Step(model, optimizer, {name: tensor.to(device) for name, tensor in latents.items()}, scale)
    drawing = Batches(captions, batch, seed)
    batches = DataLoader(drawing, batch_size=None, sampler=range(done, steps), num_workers=workers)
    started, log = time.perf_counter(), open(file.with_suffix(".log"), "a")
    for step, drawn in enumerate(batches, done):
        torch.manual_seed(seed * 1_000_003 + step)
        now = lr * min(1.0, (step + 1) / WARM_UP)
        if cooled_from is not None:
            now *= min(1.0, (steps - step) / (steps - cooled_from))
        for group in optimizer.param_groups:
            group["lr"] = now
        step_of(*drawn)
        with torch.no_grad():
            torch._foreach_lerp_(averages, weights, 1 - min(EMA, (step + 1) / (step + 10)))
        if (step + 1) % log_every == 0:
            loss, grounding = (step_of.losses / log_every).tolist()
            line = f"{step + 1} loss {loss:.4f} grounding {grounding:.3f} lr {now:.2e}"
            print(line, f"{time.perf_counter() - started:.0f}s", file=log, flush=True)
            step_of.losses.zero_()
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save_state(file, step + 1, model, optimizer, average=average.state_dict())
            if saved:
                saved(step + 1, average)
    step_of.remove()
    log.close()
    return average.eval()
