"""What a base model draws, by the judge: one thing, pairs, twins, places; and where its words' maps lie.

    python -m benchmarks.toybox_base CHECKPOINT [--judge FILE] [--sheets FOLDER] [--count N] [--steps N] [--fast]

Each function takes a loaded checkpoint and returns {figure: value}.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lib_persres.identifiers import IDENTIFIERS
from lib_persres.sampler import noise_for, sample
from lib_persres.standalone.checkpoint import load
from lib_persres.toybox import CHECKPOINT
from lib_persres.toybox.judge import WEIGHTS, Judge, Seen
from lib_persres.toybox.maps import best_iou, level_maps
from lib_persres.toybox.render import render
from lib_persres.toybox.scenes import OPPOSITE, caption_of, scene_of
from lib_persres.toybox.training.reconstruction import reconstruction_errors
from lib_persres.toybox.world import BACKGROUNDS, CLASSES, COLOURS, SIZE

MAP_SCENES, PICTURES = 41, 42  # seeds of scenes that no training uses
FIGURES = {"one": "toybox.base_all_right", **{kind: f"toybox.base_{kind}" for kind in ("pairs", "twins", "places")}}
"""Kind of prompts -> figure."""
_AND = "and"


@dataclass(frozen=True)
class Asked:
    """A prompt and what its picture has to show. things: (class, colour) in the prompt's order."""

    things: tuple[tuple[str, str], ...]
    background: str
    place: str | None = None

    @property
    def prompt(self) -> str:
        named = [f"a {colour} {cls}" for cls, colour in self.things]
        return f"a photo of {f' {self.place or _AND} '.join(named)} {BACKGROUNDS[self.background]}"

    def things_right(self, seen: Seen) -> bool:
        """Each thing is there once, in its colour, and nothing else."""
        return sorted((thing.cls, thing.colour) for thing in seen.things) == sorted(self.things)

    def place_right(self, seen: Seen) -> bool:
        """The two things lie as asked; they must be right."""
        by_name = {(thing.cls, thing.colour): thing.centre for thing in seen.things}
        first, second = (np.array(by_name[name]) for name in self.things)
        dx, dy = first - second
        way = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}[self.place]
        return bool(way > 0 and way >= max(abs(dx), abs(dy)))


def one_thing(count: int, seed: int = 5) -> list[Asked]:
    every = [(cls, colour, place) for cls in CLASSES for colour in COLOURS for place in BACKGROUNDS]
    order = np.random.default_rng(seed).permutation(len(every))
    return [Asked(((every[i][0], every[i][1]),), every[i][2]) for i in order[:count]]


def pairs(count: int, seed: int = 6, placed: bool = False) -> list[Asked]:
    """Two things of different classes, of any colours."""
    rng = np.random.default_rng([seed, placed])
    asked = []
    for _ in range(count):
        classes = rng.choice(CLASSES, 2, replace=False)
        colours = rng.choice(list(COLOURS), 2)
        place = str(rng.choice(list(OPPOSITE))) if placed else None
        asked.append(Asked(_named(classes, colours), str(rng.choice(list(BACKGROUNDS))), place))
    return asked


def twins(count: int, seed: int = 7) -> list[Asked]:
    """Two things of one class in different colours."""
    rng = np.random.default_rng(seed)
    asked = []
    for _ in range(count):
        classes, colours = [rng.choice(CLASSES)] * 2, rng.choice(list(COLOURS), 2, replace=False)
        asked.append(Asked(_named(classes, colours), str(rng.choice(list(BACKGROUNDS)))))
    return asked


def _named(classes, colours) -> tuple[tuple[str, str], ...]:
    return tuple((str(cls), str(colour)) for cls, colour in zip(classes, colours))


@torch.no_grad()
def draw(sd, prompts: Sequence[str], *, steps: int = 50, batch: int = 32, fast: bool = False) -> torch.Tensor:
    """Pictures (n,3,128,128) of the prompts, with the seeds 0, 1, …; fast: in bfloat16, which looks the same."""
    uncond, _ = sd.encode_prompts([""])
    pictures = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        conditioning, _ = sd.encode_prompts(list(part))
        noise = noise_for(list(range(start, start + len(part))), (4, SIZE // 8, SIZE // 8))
        with torch.autocast(sd.device.type, torch.bfloat16, enabled=fast):
            drawn = sample(sd, conditioning, uncond, noise.to(sd.device), steps=steps)
            pictures.append(sd.decode_latents(drawn).float().cpu())
    return torch.cat(pictures)


def asked_of(kind: str, count: int) -> list[Asked]:
    """The prompts of a kind: one, pairs, or half as many twins or places."""
    makers = {"one": one_thing, "pairs": pairs, "twins": twins, "places": partial(pairs, placed=True)}
    return makers[kind](count if kind in ("one", "pairs") else count // 2)


def drawn_right(
    sd, judge: Judge, kind: str, count: int, say: Callable[[str], None] = print, sheets: Path | None = None, **options
) -> dict[str, float]:
    """The share of a kind's pictures that show what their prompts ask for.

    base_all_right: one thing, its class, colour and background, and nothing else. base_pairs, base_twins: both things
    in their colours and nothing else. base_places: of pairs with a word of place whose things are right, those that
    lie as asked. sheets: a folder for a contact sheet of 64 pictures.
    """
    asked = asked_of(kind, count)
    pictures = draw(sd, [one.prompt for one in asked], **options)
    seen = judge.see(pictures)
    if sheets:
        contact_sheet(pictures[:64], sheets / f"{kind}.png")
    good = [one.things_right(s) for one, s in zip(asked, seen)]
    backgrounds = [one.background == s.background for one, s in zip(asked, seen)]
    placed = [one.place_right(s) for one, s, ok in zip(asked, seen, good) if one.place and ok]
    numbers = np.bincount([len(s.things) for s in seen], minlength=4)
    classes = [sorted(t.cls for t in s.things) == sorted(cls for cls, _ in a.things) for a, s in zip(asked, seen)]
    say(
        f"{kind}: things right {np.mean(good):.3f}, classes {np.mean(classes):.3f}, background "
        f"{np.mean(backgrounds):.3f}, pictures of 0, 1, 2… things {numbers.tolist()}"
    )
    if kind == "one":
        good = [things and behind for things, behind in zip(good, backgrounds)]
    values = placed if kind == "places" else good
    return {FIGURES[kind]: float(np.mean(values)) if values else 0.0}


@torch.no_grad()
def map_ious(sd, count: int = 60, say: Callable[[str], None] = print) -> dict[str, float]:
    """Best-threshold IoU of each thing's concept map with its mask, `count` scenes of one thing and as many of two.

    Every thing has an identifier before its class word; else as the figure `toybox.map_iou` measures it. Of two
    things the worse mean, of the first and of the second of the caption, counts.
    """
    found: dict[tuple[int, int, int], list[float]] = {}
    numbers = {1: 0, 2: 0}
    index = -1
    while min(numbers.values()) < count:
        index += 1
        scene = scene_of(MAP_SCENES, index)
        number = len(scene.things)
        if scene.style != "photo" or numbers.get(number, count) >= count:
            continue
        numbers[number] += 1
        picture, masks = render(scene)
        caption = caption_of(scene, np.random.default_rng([MAP_SCENES, index]))
        last = {owner: i for i, owner in enumerate(caption.owners) if owner >= 0}
        words, tokens = [], {}
        for i, (word, owner) in enumerate(zip(caption.words, caption.owners)):
            if owner >= 0 and last[owner] == i:
                first = 1 + len(sd.encode_text(" ".join(words)))
                tokens[owner] = [first, first + 1]
                words.append(IDENTIFIERS[len(tokens) - 1])
            words.append(word)
        for order, (owner, places) in enumerate(tokens.items()):
            for side, level in level_maps(sd, picture, " ".join(words), places, index).items():
                iou = best_iou(level, torch.from_numpy(masks[owner]))
                found.setdefault((number, side, order), []).append(iou)
    means = {key: float(np.mean(values)) for key, values in found.items()}
    sides = sorted({side for _, side, _ in means})
    rounded = {key: round(mean, 3) for key, mean in means.items()}
    say(f"IoU of maps (things in the scene, side of the map, place in the caption): {rounded}")
    return {
        "toybox.map_iou": max(means[1, side, 0] for side in sides),
        "toybox.map_iou_pairs": max(min(means[2, side, 0], means[2, side, 1]) for side in sides),
    }


def reconstruction(sd, count: int = 100) -> dict[str, float]:
    """PSNR, the colours of even areas and the corners of the checkpoint's autoencoder, on fresh renderings."""
    pictures = np.stack([render(scene_of(PICTURES, index))[0] for index in range(count)])
    errors = reconstruction_errors(sd.vae, pictures)
    names = {"psnr": "psnr", "colour": "colour_error", "corner": "corner_error"}
    return {f"toybox.{name}": errors[error] for error, name in names.items()}


def contact_sheet(pictures: torch.Tensor, file: Path, columns: int = 8) -> None:
    """Pictures (n,3,h,w) in [0,1] in rows of `columns`, as a PNG."""
    side = pictures.shape[-1]
    sheet = Image.new("RGB", (columns * side, -(-len(pictures) // columns) * side))
    for i, picture in enumerate((pictures.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()):
        sheet.paste(Image.fromarray(picture), (i % columns * side, i // columns * side))
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=CHECKPOINT)
    parser.add_argument("--judge", type=Path, default=WEIGHTS)
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--count", type=int, default=192)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--fast", action="store_true", help="bfloat16")
    parser.add_argument("--only-drawings", action="store_true")
    args = parser.parse_args()
    drawing = {"count": args.count, "steps": args.steps, "fast": args.fast, "sheets": args.sheets}
    sd, judge, figures = load(args.checkpoint, args.device), Judge.load(args.judge), {}
    for kind in FIGURES:
        figures |= drawn_right(sd, judge, kind, **drawing)
    if not args.only_drawings:
        sd = load(args.checkpoint, "cpu")
        figures |= map_ious(sd) | reconstruction(sd)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
