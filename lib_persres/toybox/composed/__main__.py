"""Train the Toybox's next base model, cool a copy of it down, train its judge, measure a checkpoint.

python -m lib_persres.toybox.composed train FOLDER --steps 20000
    everything that is wanting, in turn: pictures, autoencoder, latents, UNet and text encoder, on one thread. The same
    command goes on after an interruption. At each save FOLDER/latest/toybox.safetensors is the averaged model.
python -m lib_persres.toybox.composed cool FOLDER --steps 1000
    a copy of the state, its rate falling to 0 over so many steps more: FOLDER/cooled-STEP/toybox.safetensors
python -m lib_persres.toybox.composed decoder FOLDER
    train the decoder alone for longer; later exports have it
python -m lib_persres.toybox.composed judge FOLDER
python -m lib_persres.toybox.composed measure CHECKPOINT --judge FOLDER/judge.safetensors --sheets FOLDER/sheets
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch

from ...errors import PersresError

PICTURES, SEED = 6000, 21


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lib_persres.toybox.composed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True)
    for name, run in (("train", train), ("cool", cool), ("decoder", decoder), ("judge", judge), ("measure", measure)):
        action = actions.add_parser(name)
        action.set_defaults(run=run)
        action.add_argument("path", type=Path, metavar="CHECKPOINT" if name == "measure" else "FOLDER")
        if name in ("train", "cool"):
            action.add_argument("--steps", type=int, default={"train": 20000, "cool": 1000}[name])
            action.add_argument("--scenes", type=int, default=24000)
            action.add_argument("--rate", type=float, default=8e-4)
        if name == "judge":
            action.add_argument("--scenes", type=int, default=8000)
        if name == "measure":
            action.add_argument("--judge", type=Path, required=True)
            action.add_argument("--sheets", type=Path)
            action.add_argument("--count", type=int, default=192)
            action.add_argument("--steps", type=int, default=50)
            action.add_argument("--fast", action="store_true", help="bfloat16")
            action.add_argument("--only-drawings", action="store_true")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        return args.run(args)
    except PersresError as error:
        print(error, file=sys.stderr)
        return 1


def train(args) -> int:
    from .denoiser import train_denoiser

    args.path.mkdir(parents=True, exist_ok=True)
    vae = _autoencoder(args.path)
    latents, captions = _scenes(args.path, vae, args.scenes)
    train_denoiser(
        latents,
        captions,
        args.path / "denoiser.pt",
        steps=args.steps,
        lr=args.rate,
        saved=lambda step, average: _export(args.path / "latest", args.path, average, latents),
    )
    return 0


def cool(args) -> int:
    """The copy is named after the step that it began at, so that an interrupted cooling goes on."""
    from .denoiser import train_denoiser

    begun = sorted(args.path.glob("cooled-*.pt"), key=lambda file: int(file.stem.removeprefix("cooled-")))
    state = torch.load(begun[-1] if begun else args.path / "denoiser.pt", mmap=True, weights_only=True)
    start = int(begun[-1].stem.removeprefix("cooled-")) if begun else state["step"]
    if not begun or state["step"] >= start + args.steps:  # none, or the last one is finished: a new copy
        start = torch.load(args.path / "denoiser.pt", mmap=True, weights_only=True)["step"]
        shutil.copyfile(args.path / "denoiser.pt", args.path / f"cooled-{start}.pt.tmp")
        (args.path / f"cooled-{start}.pt.tmp").replace(args.path / f"cooled-{start}.pt")
    latents, captions = _scenes(args.path, _autoencoder(args.path), args.scenes)
    train_denoiser(
        latents,
        captions,
        args.path / f"cooled-{start}.pt",
        steps=start + args.steps,
        cooled_from=start,
        lr=args.rate,
        saved=lambda step, average: _export(args.path / f"cooled-{start}", args.path, average, latents),
    )
    return 0


def decoder(args) -> int:
    from .autoencoder import finish_decoder
    from .dataset import render_pictures

    finish_decoder(render_pictures(args.path / "pictures.npy", PICTURES, SEED), _autoencoder(args.path), args.path)
    return 0


def judge(args) -> int:
    from .autoencoder import load_decoder
    from .train_judge import held_out_accuracy, train_judge

    trained = train_judge(args.path, load_decoder(_autoencoder(args.path), args.path / "decoder.pt"), count=args.scenes)
    print(json.dumps(held_out_accuracy(trained)))
    return 0


def measure(args) -> int:
    from ...standalone.checkpoint import load
    from . import measure as measures
    from .judge import Judge

    sd = load(args.path, "cpu")
    drawing = {"count": args.count, "steps": args.steps, "fast": args.fast, "sheets": args.sheets}
    figures = measures.composition(sd, Judge.load(args.judge), **drawing)
    if not args.only_drawings:
        figures |= measures.map_ious(sd) | measures.reconstruction(sd)
    print(json.dumps(figures, indent=1))
    return 0


def _autoencoder(folder: Path):
    """The trained autoencoder; trained now, or further, where that is wanting."""
    from .autoencoder import train_autoencoder
    from .dataset import render_pictures

    return train_autoencoder(render_pictures(folder / "pictures.npy", PICTURES, SEED), folder)


def _scenes(folder: Path, vae, count: int):
    from ...standalone.tokenizer import Tokenizer
    from .dataset import encode_scenes
    from .denoiser import Captions

    return encode_scenes(vae, folder / "latents", count, SEED), Captions(SEED, count, Tokenizer.find())


def _export(out: Path, folder: Path, average, latents) -> None:
    """Write the averaged model as a checkpoint; whole, or the old one stays."""
    from ...standalone.checkpoint import save_sd1
    from .autoencoder import load_decoder
    from .dataset import scale_of

    vae = load_decoder(_autoencoder(folder), folder / "decoder.pt")
    new = out.with_name(out.name + ".new")
    save_sd1(new / "toybox.safetensors", average.unet, vae, average.text, scale_factor=scale_of(latents))
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.replace(old)
    new.replace(out)
    shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
