"""Trains the judge on renderings of one thing, half of them also seen through the base model's autoencoder."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from .judge import ANSWERS, WEIGHTS, Judge
from .render import render
from .world import random_scene

#: Seeds of the scenes that the judge learns from and of those that it is tested on.
TRAINING, HELD_OUT = 11, 12


def examples(start: int, stop: int, seed: int):
    """Pictures uint8 (n,128,128,3), masks as shares (n,32,32), labels {question: (n,)} with -1 where unasked.

    Every other scene wears a skin; those have no colour or pattern to name.
    """
    pictures, masks = [], []
    labels: dict[str, list[int]] = {name: [] for name in ANSWERS}
    for index in range(start, stop):
        rng = np.random.default_rng([seed, index])
        while (scene := random_scene(rng, count=1, skinned=index % 2 == 1)).style != "photo":
            pass
        picture, mask = render(scene)
        thing = scene.things[0]
        truth = {
            "cls": thing.cls,
            "background": scene.background,
            "colour": None if thing.skin else thing.colour,
            "pattern": None if thing.skin else thing.pattern,
            "skin": thing.skin.name if thing.skin else None,
        }
        for name, answers in ANSWERS.items():
            labels[name].append(answers.index(truth[name]) if truth[name] is not None else -1)
        pictures.append(picture)
        masks.append(mask[0].reshape(32, 4, 32, 4).mean((1, 3)).astype(np.float32))
    return np.stack(pictures), np.stack(masks), {n: np.array(v) for n, v in labels.items()}


def many_examples(count: int, seed: int):
    """As tensors, rendered by all cores: pictures uint8 (n,3,128,128), masks, labels."""
    bounds = [(i, min(i + 500, count), seed) for i in range(0, count, 500)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(examples, *zip(*bounds)))
    pictures = torch.from_numpy(np.concatenate([p[0] for p in parts])).permute(0, 3, 1, 2).contiguous()
    masks = torch.from_numpy(np.concatenate([p[1] for p in parts]))
    labels = {n: torch.from_numpy(np.concatenate([p[2][n] for p in parts])) for n in ANSWERS}
    return pictures, masks, labels


@torch.no_grad()
def _through(vae, pictures: torch.Tensor) -> torch.Tensor:
    """The pictures as the autoencoder gives them back, with some noise on the latents, uint8."""
    out = []
    for part in pictures.split(32):
        with torch.autocast("cpu", torch.bfloat16):
            mean, std = vae.moments(part.float() / 127.5 - 1)
            decoded = vae.decode(mean + (std + 0.05) * torch.randn_like(mean))
        out.append(((decoded.float().clamp(-1, 1) + 1) * 127.5).round().byte())
    return torch.cat(out)


def train_judge(vae, *, count: int = 9000, decoded: int = 3000, steps: int = 1200, seed: int = 0) -> Judge:
    """Train on `count` renderings, the first `decoded` of them also through the autoencoder; saves the weights."""
    torch.manual_seed(seed)
    pictures, masks, labels = many_examples(count, TRAINING)
    pictures = torch.cat([pictures, _through(vae, pictures[:decoded])])
    masks = torch.cat([masks, masks[:decoded]])
    labels = {n: torch.cat([v, v[:decoded]]) for n, v in labels.items()}
    judge = Judge().train()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.15)
    for step in range(steps):
        rows = torch.randint(len(pictures), (64,))
        x = _worn(pictures[rows].float() / 255)
        with torch.autocast("cpu", torch.bfloat16):
            seen = {name: answer.float() for name, answer in judge(x).items()}
        loss = 2 * F.binary_cross_entropy_with_logits(seen["mask"], masks[rows])
        for name in ANSWERS:
            loss = loss + F.cross_entropy(seen[name], labels[name][rows], ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            print(f"judge {step + 1} loss {loss.item():.4f}", flush=True)
    judge.eval()
    WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: t.half().contiguous() for name, t in judge.state_dict().items()}, WEIGHTS)
    return Judge.load(Path(WEIGHTS))


def _worn(x: torch.Tensor) -> torch.Tensor:
    """Slightly wrong colours, blur and noise, as generated pictures have them."""
    b = len(x)
    x = x * (1 + 0.08 * torch.randn(b, 3, 1, 1)) + 0.03 * torch.randn(b, 3, 1, 1)
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.lerp(x, blurred, torch.rand(b, 1, 1, 1))
    return (x + 0.03 * torch.rand(b, 1, 1, 1) * torch.randn_like(x)).clamp(0, 1)


@torch.no_grad()
def held_out_accuracy(judge: Judge, count: int = 2000) -> dict[str, float]:
    """Share of fresh renderings where each answer is right, and `all_right`: class, colour and background."""
    pictures, masks, labels = many_examples(count, HELD_OUT)
    parts = [judge(part.float() / 255) for part in pictures.split(100)]
    right = {
        name: torch.cat([part[name] for part in parts]).argmax(1) == labels[name] for name in ANSWERS
    }
    asked = {name: labels[name] >= 0 for name in ANSWERS}
    shares = {name: right[name][asked[name]].float().mean().item() for name in ANSWERS}
    everything = right["cls"] & right["colour"] & right["background"]
    seen = torch.cat([part["mask"] for part in parts]) > 0
    true = masks > 0.5
    iou = (seen & true).sum((1, 2)) / (seen | true).sum((1, 2)).clamp_min(1)
    return {**shares, "all_right": everything[asked["colour"]].float().mean().item(), "iou": iou.mean().item()}
