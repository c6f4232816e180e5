"""Train the Toybox's next base model, cool a copy of it down, train its judge, measure a checkpoint.

python -m lib_persres.toybox.composed train FOLDER --steps 20000
    everything that is wanting, in turn: pictures, autoencoder, latents, UNet and text encoder, on one thread. The same
    command goes on after an interruption. At each save FOLDER/latest/toybox.safetensors is the averaged model.
python -m lib_persres.toybox.composed cool FOLDER --steps 1000
    a copy of the state, its rate falling to 0 over so many steps more: FOLDER/cooled-STEP/toybox.safetensors
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

SEED = 21


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lib_persres.toybox.composed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True)
    for name, run in (("train", train), ("cool", cool), ("judge", judge), ("measure", measure)):
        action = actions.add_parser(name)
        action.set_defaults(run=run)
        action.add_argument("path", type=Path, metavar="CHECKPOINT" if name == "measure" else "FOLDER")
        action.add_argument("--device", default="cpu")
        action.add_argument("--processes", type=int, default=1, help="that render scenes and write captions")
        if name != "measure":
            action.add_argument("--pictures", type=int, default=6000, help="that the autoencoder learns from")
            action.add_argument("--autoencoder-steps", type=int, default=6000)
            action.add_argument("--autoencoder-batch", type=int, default=4)
        if name in ("train", "cool"):
            action.add_argument("--steps", type=int, default={"train": 20000, "cool": 1000}[name])
            action.add_argument("--scenes", type=int, default=24000)
            action.add_argument("--rate", type=float, default=8e-4)
            action.add_argument("--batch", type=int, default=32)
            action.add_argument("--save-every", type=int, default=250)
            action.add_argument("--begin-with", type=Path, metavar="CHECKPOINT", help="whose weights are learned on")
        if name == "judge":
            action.add_argument("--scenes", type=int, default=8000)
            action.add_argument("--steps", type=int, default=1800)
            action.add_argument("--batch", type=int, default=32)
        if name == "measure":
            action.add_argument("--judge", type=Path, required=True)
            action.add_argument("--sheets", type=Path)
            action.add_argument("--count", type=int, default=192)
            action.add_argument("--steps", type=int, default=50)
            action.add_argument("--fast", action="store_true", help="bfloat16")
            action.add_argument("--only-drawings", action="store_true")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.processes)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    try:
        return args.run(args)
    except PersresError as error:
        print(error, file=sys.stderr)
        return 1


def train(args) -> int:
    from ...standalone.checkpoint import load
    from .denoiser import train_denoiser

    args.path.mkdir(parents=True, exist_ok=True)
    latents, captions = _scenes(args, _autoencoder(args))
    train_denoiser(
        latents,
        captions,
        args.path / "denoiser.pt",
        steps=args.steps,
        lr=args.rate,
        batch=args.batch,
        begin_with=load(args.begin_with, "cpu") if args.begin_with else None,
        device=args.device,
        workers=args.processes if args.processes > 1 else 0,
        save_every=args.save_every,
        saved=lambda step, average: _export(args.path / "latest", args, average, latents),
    )
    return 0


def cool(args) -> int:
    from .denoiser import train_denoiser

    file, start = _copy_to_cool(args.path, args.steps)
    latents, captions = _scenes(args, _autoencoder(args))
    train_denoiser(
        latents,
        captions,
        file,
        steps=start + args.steps,
        cooled_from=start,
        lr=args.rate,
        batch=args.batch,
        device=args.device,
        workers=args.processes if args.processes > 1 else 0,
        save_every=args.save_every,
        saved=lambda step, average: _export(file.with_suffix(""), args, average, latents),
    )
    return 0


def _copy_to_cool(folder: Path, steps: int) -> tuple[Path, int]:
    """The copy that is being cooled down, or a new one, and the step that it began at, which its name tells."""
    copies = {int(file.stem.removeprefix("cooled-")): file for file in folder.glob("cooled-*.pt")}
    if copies:
        start = max(copies)
        if _step(copies[start]) < start + steps:
            return copies[start], start
    start = _step(folder / "denoiser.pt")
    file = folder / f"cooled-{start}.pt"
    if not file.exists():
        temporary = file.with_suffix(".tmp")
        shutil.copyfile(folder / "denoiser.pt", temporary)
        temporary.replace(file)
    return file, start


def _step(file: Path) -> int:
    return torch.load(file, mmap=True, weights_only=True)["step"]


def judge(args) -> int:
    from .train_judge import held_out_accuracy, train_judge

    options = {"count": args.scenes, "steps": args.steps, "batch": args.batch, "processes": args.processes}
    trained = train_judge(args.path, _autoencoder(args), decoded=args.scenes // 4, device=args.device, **options)
    print(json.dumps(held_out_accuracy(trained)))
    return 0


def measure(args) -> int:
    from ...standalone.checkpoint import load
    from . import measure as measures
    from .judge import Judge

    sd = load(args.path, args.device)
    drawing = {"count": args.count, "steps": args.steps, "fast": args.fast, "sheets": args.sheets}
    figures = measures.composition(sd, Judge.load(args.judge), **drawing)
    if not args.only_drawings:
        sd = load(args.path, "cpu")
        figures |= measures.map_ious(sd) | measures.reconstruction(sd)
    print(json.dumps(figures, indent=1))
    return 0


def _autoencoder(args):
    """The trained autoencoder; trained now, or further, where that is wanting."""
    from .autoencoder import train_autoencoder
    from .dataset import render_pictures

    args.path.mkdir(parents=True, exist_ok=True)
    pictures = render_pictures(args.path / "pictures.npy", args.pictures, SEED, args.processes)
    options = {"batch": args.autoencoder_batch, "device": args.device}
    return train_autoencoder(pictures, args.path, steps=args.autoencoder_steps, **options)


def _scenes(args, vae):
    from ...standalone.tokenizer import Tokenizer
    from .captions import Captions
    from .dataset import encode_scenes

    latents = encode_scenes(vae, args.path / "latents", args.scenes, SEED, args.processes)
    return latents, Captions(SEED, args.scenes, Tokenizer.find())


def _export(out: Path, args, average, latents) -> None:
    """Write the averaged model as a checkpoint; whole, or the old one stays."""
    from ...standalone.checkpoint import save_sd1
    from .dataset import scale_of

    vae = _autoencoder(args)
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
