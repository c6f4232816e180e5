"""A small CLIP trained on the Toybox's scenes and captions, in transformers' own format.

It plays OpenAI's CLIP where the pictures are the Toybox's, so that the same embedders and scores run on learned
weights. As CLIP has seen more than a diffusion model's captions say, this one also sees the skins (the appearances
that the base model never sees) and words for them; no prompt of the evaluation uses those words.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from ...standalone.tokenizer import Tokenizer
from ..render import render
from ..vocabulary import part_of, skin_words, words
from ..world import BACKGROUNDS, Scene, describe, random_scene
from .state import load_state, save_state

SIDE = 64
"""Pictures are scaled to this side."""
WORDS_SEEN = 32
"""Tokens that training looks at; the attention is causal, so padding after a caption's end changes nothing."""
TRAINING, HELD_OUT = 21, 22
"""Seeds of the scenes that it learns from and of those that it is tested on."""

_MEAN, _STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def scene_of(seed: int, index: int) -> Scene:
    """Scene `index`: things in the palette's colours, in skins for odd indices."""
    return random_scene(np.random.default_rng([seed, index]), skinned=index % 2 == 1)


def caption(scene: Scene, rng: np.random.Generator, said: float = 0.6) -> str:
    """A caption as the base model's, where each skin is named with probability `said`."""
    told = describe(scene, rng)
    last = {owner: at for at, owner in enumerate(told.owners) if owner >= 0}  # a thing's last word is its class
    out = []
    for at, (word, owner) in enumerate(zip(told.words, told.owners)):
        skin = scene.things[owner].skin if last.get(owner) == at else None
        if skin and rng.random() < said:
            out.append(skin_words(skin))
        out.append(word)
    return " ".join(out)


def full_caption(scene: Scene) -> str:
    """The caption that leaves nothing out but sizes: what a scene is retrieved by."""
    parts = []
    for thing in scene.things:
        looks = [skin_words(thing.skin)] if thing.skin else [] if scene.style == "sketch" else [thing.colour]
        looks += [thing.pattern] if thing.pattern != "plain" else []
        parts.append(" ".join(["a", *looks, thing.cls]))
    kind = "sketch" if scene.style == "sketch" else "photo"
    return f"a {kind} of {' and '.join(parts)} {BACKGROUNDS[scene.background]}"


def _pictures(bounds: tuple[int, int, int]) -> np.ndarray:
    seed, start, stop = bounds
    out: np.ndarray = np.empty((stop - start, SIDE, SIDE, 3), np.uint8)
    for index in range(start, stop):
        picture = Image.fromarray(render(scene_of(seed, index))[0])
        out[index - start] = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return out


def pictures(count: int, seed: int, workers: int | None = None) -> torch.Tensor:
    """The first `count` scenes: uint8 (count, 3, SIDE, SIDE)."""
    bounds = [(seed, start, min(start + 500, count)) for start in range(0, count, 500)]
    if len(bounds) == 1:
        parts = [_pictures(bounds[0])]
    else:
        with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
            parts = list(pool.map(_pictures, bounds))
    return torch.from_numpy(np.concatenate(parts)).permute(0, 3, 1, 2).contiguous()


# -- the model -----------------------------------------------------------------------------------------------


def new_model(tokenizer: Tokenizer, width: int = 128, layers: int = 4, seed: int = 0) -> CLIPModel:
    """CLIP's two towers, small: a vision transformer on patches of 8 pixels and half as deep a text transformer."""
    torch.manual_seed(seed)
    shared = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 32}
    ids = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.eos}
    text = {**shared, **ids, "num_hidden_layers": max(layers // 2, 1), "vocab_size": len(tokenizer.vocabulary)}
    vision = {**shared, "num_hidden_layers": layers, "image_size": SIDE, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width, **ids))


def features(model: CLIPModel, pixels: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors (b,d) of pictures uint8 (b,3,SIDE,SIDE) and of token ids (b,n)."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (_MEAN, _STD))
    seen = model.vision_model(pixel_values=(pixels.float() / 255 - mean) / std).pooler_output
    read = model.text_model(input_ids=ids).pooler_output
    return F.normalize(model.visual_projection(seen), dim=1), F.normalize(model.text_projection(read), dim=1)


def encode(tokenizer: Tokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids (b, WORDS_SEEN)."""
    return torch.tensor([tokenizer.pad(tokenizer.encode(text))[:WORDS_SEEN] for text in texts])


def contrast(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, texts: list[str]) -> torch.Tensor:
    """CLIP's symmetric cross-entropy (Radford et al. 2021, Figure 3); equal captions share the right answer."""
    same = torch.tensor([[float(a == b) for b in texts] for a in texts])
    target = same / same.sum(1, keepdim=True)
    logits = scale * image @ text.T
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def train(
    folder: str | os.PathLike,
    *,
    scenes: int = 8000,
    steps: int = 800,
    batch: int = 128,
    width: int = 128,
    layers: int = 4,
    learning_rate: float = 1e-3,
    seed: int = 0,
    save_every: int = 100,
    say=print,
) -> CLIPModel:
    """Train into `folder` and export to its subfolder `model`; a killed training continues where it was saved."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = part_of(Tokenizer.find(), words())
    model = new_model(tokenizer, width, layers, seed).train()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    done = load_state(folder / "state.pt", model, optimizer)
    images = pictures(scenes, TRAINING)
    for step in range(done, steps):
        rng = np.random.default_rng([seed, step])  # each step has its own draw, so that resuming repeats none
        rows = rng.integers(scenes, size=batch)
        texts = [caption(scene_of(TRAINING, int(row)), rng) for row in rows]
        rate = learning_rate * min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            image, text = features(model, _worn(images[rows], rng), encode(tokenizer, texts))
        loss = contrast(image.float(), text.float(), model.logit_scale.exp(), texts)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.logit_scale.data.clamp_(max=np.log(100))
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save_state(folder / "state.pt", step + 1, model, optimizer)
            say(f"toybox clip {step + 1}/{steps} loss {loss.item():.4f}", flush=True)
    model.eval()
    export(model, tokenizer, folder / "model")
    return model


def _worn(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Slightly wrong colours and some blur, as generated pictures have them; uint8 in and out."""
    x = x.float()
    gain = torch.from_numpy(rng.normal(1, 0.05, (len(x), 3, 1, 1))).float()
    shift = torch.from_numpy(rng.normal(0, 6, (len(x), 3, 1, 1))).float()
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.lerp(x, blurred, torch.from_numpy(rng.uniform(0, 0.8, (len(x), 1, 1, 1))).float())
    return (x * gain + shift).round().clamp(0, 255).byte()


def export(model: CLIPModel, tokenizer: Tokenizer, folder: str | os.PathLike, dtype=torch.float16) -> None:
    """Write config.json, model.safetensors, vocab.json, merges.txt, preprocessor_config.json."""
    copy = CLIPModel(model.config).to(dtype)
    copy.load_state_dict({name: tensor.to(dtype) for name, tensor in model.state_dict().items()})
    copy.save_pretrained(folder)
    tokenizer.write_vocabulary(folder)
    settings = {
        "size": {"shortest_edge": SIDE},
        "crop_size": {"height": SIDE, "width": SIDE},
        "image_mean": list(_MEAN),
        "image_std": list(_STD),
    }
    text = json.dumps(settings, indent=2)
    (Path(folder) / "preprocessor_config.json").write_text(text + "\n", encoding="utf-8")


# -- its figure ----------------------------------------------------------------------------------------------


@torch.no_grad()
def retrieval_accuracy(model: CLIPModel, tokenizer: Tokenizer, count: int = 256, seed: int = HELD_OUT) -> dict:
    """Of `count` unseen scenes with distinct captions: the share whose picture is nearest to its own caption
    ("image_to_text"), and whose caption is nearest to its own picture ("text_to_image"). Chance is 1/count.
    """
    texts: dict[str, int] = {}
    index = 0
    while len(texts) < count:
        texts.setdefault(full_caption(scene_of(seed, index)), index)
        index += 1
    images = pictures(index, seed)[list(texts.values())]
    image, text = features(model, images, encode(tokenizer, list(texts)))
    similar = image @ text.T
    own = torch.arange(count)
    return {
        "image_to_text": (similar.argmax(1) == own).float().mean().item(),
        "text_to_image": (similar.argmax(0) == own).float().mean().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the Toybox's CLIP into FOLDER/model, or go on with it.")
    parser.add_argument("folder", metavar="FOLDER")
    model = train(parser.parse_args().folder)
    print(json.dumps(retrieval_accuracy(model, part_of(Tokenizer.find(), words()))))


if __name__ == "__main__":
    main()
