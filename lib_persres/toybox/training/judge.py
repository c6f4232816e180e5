"""Trains the judge on renderings of one to three things, some of them also seen through the autoencoder."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from ..judge import CELL, GRID, PLACES, QUESTIONS, Judge
from ..render import render
from ..scenes import scene_of
from ..world import SKINS, Scene
from .dataset import THINGS, chunks, renderers
from .state import load_state, save_state

#: Seeds of the scenes that the judge learns from and of those that it is tested on.
TRAINING, HELD_OUT = 31, 32
SPREAD = 1.2  # cells: how wide the centre map's hills are


def scene_to_judge(seed: int, index: int) -> Scene:
    """A scene half of whose things wear skins."""
    rng = np.random.default_rng([seed, index, 1])
    scene = replace(scene_of(seed, index), style="photo")
    return replace(scene, things=tuple(_dressed(thing, rng) if rng.random() < 0.5 else thing for thing in scene.things))


def _dressed(thing, rng):
    return replace(thing, colour=None, pattern="plain", skin=SKINS[rng.integers(len(SKINS))])


def examples(seed: int, start: int, stop: int) -> dict[str, torch.Tensor]:
    """Renderings and what is true of them.

    "pictures" uint8 (n,3,128,128); "masks" (n,3,32,32) shares of cells; "background" (n,); each question (n,3), -1
    where there is no thing or nothing to ask: a skin has no colour or pattern to name.
    """
    count = stop - start
    pictures = []
    masks: np.ndarray = np.zeros((count, THINGS, GRID, GRID), np.float32)
    labels = {question: np.full((count, THINGS), -1) for question in QUESTIONS}
    background: np.ndarray = np.zeros(count, np.int64)
    for row, index in enumerate(range(start, stop)):
        scene = scene_to_judge(seed, index)
        picture, drawn = render(scene)
        pictures.append(picture)
        masks[row, : len(drawn)] = drawn.reshape(len(drawn), GRID, CELL, GRID, CELL).mean((2, 4))
        background[row] = PLACES.index(scene.background)
        for i, thing in enumerate(scene.things):
            skin = thing.skin.name if thing.skin else None
            bare = {"colour": thing.colour, "pattern": thing.pattern}
            for question, answer in {"cls": thing.cls, "skin": skin, **({} if skin else bare)}.items():
                if answer is not None:
                    labels[question][row, i] = QUESTIONS[question].index(answer)
    tensors = {question: torch.from_numpy(values) for question, values in labels.items()}
    return {
        "pictures": torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(),
        "masks": torch.from_numpy(masks),
        "background": torch.from_numpy(background),
        **tensors,
    }


def _examples(count: int, processes: int) -> dict[str, torch.Tensor]:
    """The training's, rendered in so many processes."""
    with renderers(processes) as run:
        parts = list(run(examples, *chunks(TRAINING, count)))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def train_judge(
    folder: Path,
    vae=None,
    *,
    count: int = 8000,
    decoded: int = 1500,
    steps: int = 1800,
    batch: int = 32,
    seed: int = 0,
    device: torch.device | str = "cpu",
    processes: int = 1,
) -> Judge:
    """Train (or go on training) on `count` renderings, the first `decoded` also as the autoencoder gives them back.

    The state lies in `folder`/judge.pt, the finished weights in judge.safetensors.
    """
    data = _kept(folder / "judge-scenes.pt", lambda: _examples(count, processes))
    if vae is not None:
        again = _kept(folder / "judge-decoded.pt", lambda: {"pictures": _through(vae, data["pictures"][:decoded])})
        rows = torch.arange(len(again["pictures"]))
        data = {name: torch.cat([t, again.get(name, t[rows])]) for name, t in data.items()}
    data = {name: tensor.to(device) for name, tensor in data.items()}
    torch.manual_seed(seed)
    judge = Judge().train().to(device)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.02)
    done = load_state(folder / "judge.pt", judge, optimizer)
    with open(folder / "judge.log", "a") as log:
        for step in range(done, steps):
            torch.manual_seed(seed * 1_000_003 + step)
            for group in optimizer.param_groups:
                group["lr"] = 4e-3 * min((step + 1) / (0.15 * steps), 1.02 - step / steps)
            rows = torch.randint(len(data["cls"]), (batch,), device=device)
            loss = _loss(judge, {name: tensor[rows] for name, tensor in data.items()})
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if (step + 1) % 50 == 0:
                print(f"{step + 1} loss {loss.item():.4f}", file=log, flush=True)
            if (step + 1) % 250 == 0 or step + 1 == steps:
                save_state(folder / "judge.pt", step + 1, judge, optimizer)
    judge.eval()
    save_file({name: t.half().contiguous() for name, t in judge.state_dict().items()}, folder / "judge.safetensors")
    return Judge.load(folder / "judge.safetensors")


def _loss(judge: Judge, rows: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.autocast(rows["masks"].device.type, torch.bfloat16):
        features, maps = judge(_worn(rows["pictures"].float() / 255))
    features, maps, masks = features.float(), maps.float(), rows["masks"]
    here = masks.sum(1)
    target, offsets = _centre_maps(masks)
    loss = 2 * F.binary_cross_entropy_with_logits(maps[:, 0], here.clamp_max(1))
    # a centre is a few cells of a thousand
    loss = loss + (F.binary_cross_entropy_with_logits(maps[:, 1], target, reduction="none") * (1 + 20 * target)).mean()
    wrong = F.smooth_l1_loss(maps[:, 2:], offsets, reduction="none").sum(1)
    loss = loss + 0.5 * (wrong * (here > 0.5)).sum() / (here > 0.5).sum()
    seen = maps[:, 0].sigmoid().detach()
    for question, logits in judge.name(features, (masks > 0.5) * seen[:, None]).items():
        loss = loss + F.cross_entropy(logits.flatten(0, 1), rows[question].flatten(), ignore_index=-1)
    return loss + F.cross_entropy(judge.name_background(features, seen), rows["background"])


def _centre_maps(masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Hills at the things' centres (b,32,32); each cell's way to its own thing's, in cells: x and y, (b,2,32,32)."""
    cells = torch.arange(GRID, device=masks.device)
    y, x = torch.meshgrid(cells, cells, indexing="ij")
    mass = masks.sum((2, 3)).clamp_min(1e-6)
    cx, cy = ((masks * axis).sum((2, 3)) / mass for axis in (x, y))
    there = masks.amax((2, 3)) > 0
    dx, dy = (c[..., None, None] - axis for c, axis in ((cx, x), (cy, y)))
    hills = (-(dx.square() + dy.square()) / (2 * SPREAD**2)).exp() * there[..., None, None]
    own = (masks > 0.5).float()
    return hills.amax(1), torch.stack([(dx * own).sum(1), (dy * own).sum(1)], 1)


def _worn(x: torch.Tensor) -> torch.Tensor:
    """Slightly wrong colours, blur and noise, as generated pictures have them."""
    b = len(x)
    shape = {"size": (b, 3, 1, 1), "device": x.device}
    x = x * (1 + 0.08 * torch.randn(**shape)) + 0.03 * torch.randn(**shape)
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.lerp(x, blurred, torch.rand(b, 1, 1, 1, device=x.device))
    return (x + 0.03 * torch.rand(b, 1, 1, 1, device=x.device) * torch.randn_like(x)).clamp(0, 1)


@torch.no_grad()
def _through(vae, pictures: torch.Tensor) -> torch.Tensor:
    """The pictures as the autoencoder gives them back, with some noise on the latents, uint8."""
    out, device = [], next(vae.parameters()).device
    for part in pictures.split(10):
        with torch.autocast(device.type, torch.bfloat16):
            mean, std = vae.moments(part.to(device).float() / 127.5 - 1)
            decoded = vae.decode(mean + (std + 0.05) * torch.randn_like(mean))
        out.append(((decoded.float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu())
    return torch.cat(out)


def _kept(file: Path, make) -> dict[str, torch.Tensor]:
    """What `make` gives, made once and kept in a file."""
    if not file.exists():
        torch.save(make(), file.with_suffix(".tmp"))
        os.replace(file.with_suffix(".tmp"), file)
    return torch.load(file, weights_only=True)


def held_out_accuracy(judge: Judge, count: int = 600) -> dict[str, float]:
    """On fresh renderings, through `see`: how often it sees what is there.

    counted: as many things as there are. Of the things that are in a well counted picture: each question, and `iou`
    of the masks. one: class, colour and background of bare single things, and nothing else seen; two: class and
    colour (or skin) of each thing of two, mean over the things, a miscounted picture counting as two wrong ones.
    """
    data = examples(HELD_OUT, 0, count)
    seen = judge.see(data["pictures"].float() / 255)
    scores: dict[str, list[float]] = {}
    for row, picture in enumerate(seen):
        masks = F.interpolate(data["masks"][row][None], size=128, mode="bilinear")[0] > 0.5
        number = int((data["cls"][row] >= 0).sum())
        behind = picture.background == PLACES[data["background"][row]]
        counted = len(picture.things) == number
        scores.setdefault("counted", []).append(counted)
        scores.setdefault("background", []).append(behind)
        good = [_answers(picture.things, masks[i], data, row, i) for i in range(number)] if counted else [{}] * number
        for answers in good:
            for question, right in answers.items():
                scores.setdefault(question, []).append(right)
        named = [all(a.get(q, q != "cls") for q in ("cls", "colour", "skin")) for a in good]
        if number == 1 and data["colour"][row, 0] >= 0:
            scores.setdefault("one", []).append(named[0] and behind)
        if number == 2:
            scores.setdefault("two", []).extend(named)
    return {name: float(np.mean(values)) for name, values in scores.items()}


def _answers(things, mask, data, row: int, index: int) -> dict[str, float]:
    """Which answers about a thing are right, of the seen thing that lies on it best."""
    overlaps = [((t.mask & mask).sum() / (t.mask | mask).sum().clamp_min(1)).item() for t in things]
    thing = things[int(np.argmax(overlaps))]
    answers: dict[str, float] = {"iou": max(overlaps)}
    for question, known in QUESTIONS.items():
        truth = int(data[question][row, index])
        if truth >= 0:
            answers[question] = float(getattr(thing, question) == known[truth])
    return answers
