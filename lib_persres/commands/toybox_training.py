"""`toybox train`, `cool` and `judge`: the Toybox's model and its judge, made anew.

torch and all that needs it is imported where it is used: `--help` is quick.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ..errors import PersresError
from ..writing import write_whole
from .common import at_least, file_name, make_folder, note, seed

TRAIN = """\
Train the Toybox model: pictures, autoencoder, latents, UNet and text encoder, all that is wanting in turn. The same
command goes on after an interruption. At each save FOLDER/latest/toybox.safetensors is the averaged model. With
--device cuda a step is one CUDA graph.
"""
COOL = """\
Learn on with a copy of what is learned, the rate falling to 0: FOLDER/cooled-STEP/toybox.safetensors is what can be
shipped. The training itself can go on from where it was.
"""


def add_training(action) -> None:
    """action(name, run, help, description) -> the parser of a new action."""
    train = action("train", train_model, "train the Toybox model from nothing, or go on", TRAIN)
    cool = action("cool", cool_model, "end a training of the Toybox model", COOL)
    judge = action("judge", train_judge, "train the judge that sees what is in the Toybox's pictures")
    for made in (train, cool, judge):
        made.add_argument("folder", type=file_name, metavar="FOLDER", help="where pictures, states and logs are (4 GB)")
        made.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: cpu)")
        made.add_argument("--processes", type=at_least(1), default=1, help="that draw scenes and write captions")
        made.add_argument("--pictures", type=at_least(20), default=12000, help="of the autoencoder (default: 12000)")
        made.add_argument("--autoencoder-steps", type=at_least(1), default=4500, help="(default: 4500)")
        made.add_argument("--autoencoder-batch", type=at_least(1), default=32, help="(default: 32)")
    for made, steps in ((train, 20000), (cool, 2000)):
        made.add_argument("--steps", type=at_least(1), default=steps, help=f"(default: {steps})")
        made.add_argument("--scenes", type=at_least(1), default=60000, help="that are learned (default: 60000)")
        made.add_argument("--batch", type=at_least(1), default=128, help="(default: 128)")
        made.add_argument("--rate", type=float, default=1.2e-3, help="learning rate (default: 0.0012)")
        made.add_argument("--save-every", type=at_least(1), default=250, help="steps (default: 250)")
    train.add_argument("--begin-with", type=file_name, metavar="CHECKPOINT", help="learn on from a Toybox's weights")
    train.add_argument("--seed", type=seed, default=21, help="of the scenes (default: 21)")
    cool.add_argument("--seed", type=seed, default=21, help="of the scenes (default: 21)")
    judge.add_argument("--seed", type=seed, default=21, help="of the autoencoder's pictures (default: 21)")
    judge.add_argument("--scenes", type=at_least(8), default=16000, help="that it learns from (default: 16000)")
    judge.add_argument("--steps", type=at_least(1), default=4000, help="(default: 4000)")
    judge.add_argument("--batch", type=at_least(1), default=64, help="(default: 64)")


def train_model(args) -> int:
    from ..standalone.checkpoint import load
    from ..toybox.training.denoiser import train_denoiser

    folder = _prepared(args)
    begin_with = load(args.begin_with, "cpu") if args.begin_with else None
    latents, captions = _scenes(args, _autoencoder(args))
    note(f"Training UNet and text encoder; their log is {folder / 'denoiser.log'}")
    train_denoiser(
        latents,
        captions,
        folder / "denoiser.pt",
        steps=args.steps,
        begin_with=begin_with,
        saved=lambda step, average: _export(folder / "latest", args, average, latents),
        **_options(args),
    )
    print(folder / "latest" / "toybox.safetensors")
    return 0


def cool_model(args) -> int:
    from ..toybox.training.denoiser import train_denoiser

    folder = _prepared(args)
    if not (folder / "denoiser.pt").is_file():
        raise PersresError(
            f"There is no training in {folder}: `python -m lib_persres toybox train {folder}` begins one."
        )
    file, start = _copy_to_cool(folder, args.steps)
    latents, captions = _scenes(args, _autoencoder(args))
    note(f"Cooling down from step {start}; the log is {file.with_suffix('.log')}")
    out = file.with_suffix("")
    train_denoiser(
        latents,
        captions,
        file,
        steps=start + args.steps,
        cooled_from=start,
        saved=lambda step, average: _export(out, args, average, latents),
        **_options(args),
    )
    print(out / "toybox.safetensors")
    return 0


def train_judge(args) -> int:
    from ..toybox.training.judge import held_out_accuracy, train_judge

    folder = _prepared(args)
    vae = _autoencoder(args)
    note(f"Training the judge; its log is {folder / 'judge.log'}")
    options = {"count": args.scenes, "steps": args.steps, "batch": args.batch, "processes": args.processes}
    trained = train_judge(folder, vae, decoded=args.scenes // 4, device=args.device, **options)
    print(json.dumps(held_out_accuracy(trained)))
    return 0


def _prepared(args) -> Path:
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        raise PersresError("There is no CUDA card here that torch can use: leave --device out.")
    torch.set_num_threads(args.processes)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    folder = Path(args.folder)
    make_folder(folder)
    begun = folder / "seed.txt"
    if begun.is_file() and begun.read_text(encoding="utf-8").strip() != str(args.seed):
        raise PersresError(
            f"The training in {folder} began with another seed ({begun}): give the same, or another folder."
        )
    write_whole(begun, f"{args.seed}\n".encode())
    return folder


def _options(args) -> dict:
    workers = args.processes if args.processes > 1 else 0
    return {
        "lr": args.rate,
        "batch": args.batch,
        "device": args.device,
        "workers": workers,
        "save_every": args.save_every,
    }


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
    import torch

    return torch.load(file, mmap=True, weights_only=True)["step"]


def _autoencoder(args):
    """The trained autoencoder; trained now, or further, where that is wanting."""
    from ..toybox.training.autoencoder import train_autoencoder
    from ..toybox.training.dataset import render_pictures

    folder = Path(args.folder)
    pictures = render_pictures(folder / "pictures.npy", args.pictures, args.seed, args.processes)
    options = {"batch": args.autoencoder_batch, "device": args.device}
    return train_autoencoder(pictures, folder, steps=args.autoencoder_steps, **options)


def _scenes(args, vae):
    from ..standalone.tokenizer import Tokenizer
    from ..toybox.training.captions import Captions
    from ..toybox.training.dataset import encode_scenes

    latents = encode_scenes(vae, Path(args.folder) / "latents", args.scenes, args.seed, args.processes)
    return latents, Captions(args.seed, args.scenes, Tokenizer.find())


def _export(out: Path, args, average, latents) -> None:
    """Write the averaged model as a checkpoint; whole, or the old one stays."""
    from ..standalone.checkpoint import save_sd1
    from ..toybox.training.dataset import scale_of

    new = out.with_name(out.name + ".new")
    save_sd1(new / "toybox.safetensors", average.unet, _autoencoder(args), average.text, scale_factor=scale_of(latents))
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.replace(old)
    new.replace(out)
    shutil.rmtree(old, ignore_errors=True)
