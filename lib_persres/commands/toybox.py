"""`toybox`: pictures of the small synthetic world, its model's training, and that model in a WebUI."""

from __future__ import annotations

import io
import json
from pathlib import Path

from ..errors import PersresError
from ..writing import write_whole
from .common import Formatter, at_least, file_name, make_folder, note, refuse_existing, seed, words
from .toybox_install import add_actions

DESCRIPTION = """\
The Toybox is a small drawn world (balls, stars, hearts… on grass, sand, snow…) with a small Stable
Diffusion model of its own, so that everything can be tried and measured in minutes without a GPU.
"""
EPILOG = """\
examples:
  python -m lib_persres toybox photos photos --class ball --skin halves-0 --background sand
      five "photos" of a ball that the Toybox model has never seen, to learn from
  python -m lib_persres toybox sample scenes --count 20
      scenes as the model was trained on, with their captions
  python -m lib_persres toybox install --webui stable-diffusion-webui
      the Toybox model among the WebUI's checkpoints; toybox uninstall takes it out again

the model can be made again, in about two hours on two CPU cores:
  python -m lib_persres toybox train base
  python -m lib_persres toybox export base lib_persres/toybox/checkpoint/toybox.safetensors --force
"""
SETTINGS = "settings.json"


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "toybox",
        help="pictures of the small synthetic world, and its model's training",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=Formatter,
    )
    parser.set_defaults(run=None, parser=parser)
    actions = parser.add_subparsers(title="what to do", metavar="ACTION")

    def action(name, run, help, description=None):
        made = actions.add_parser(
            name,
            help=help,
            description=description or help[0].upper() + help[1:] + ".",
            formatter_class=Formatter,
        )
        made.set_defaults(run=run)
        return made

    photos = action(
        "photos", write_photos, '"photos" of a thing that the model has never seen, to learn from'
    )
    photos.add_argument("folder", type=file_name, metavar="FOLDER", help="where the photos go")
    photos.add_argument(
        "--class",
        dest="cls",
        metavar="NOUN",
        type=words,
        default="ball",
        help="ball (the default), box, star, heart, ring, cross, moon or cone",
    )
    photos.add_argument(
        "--skin",
        type=words,
        default="halves-0",
        help="its looks: halves, stacked, target, diagonal, quarters or emblem, in the colours 0 to 3 "
        "(default: halves-0)",
    )
    photos.add_argument(
        "--background", type=words, default="sand", help="grass, sand (the default), night, bricks, water or snow"
    )
    photos.add_argument("--count", type=at_least(1, 100_000), default=5, help="how many (default: 5)")
    photos.add_argument("--seed", type=seed, default=0, help="another seed, other photos (default: 0)")
    photos.add_argument("--force", action="store_true", help="replace photos that are there")

    sample = action("sample", write_sample, "random scenes with their captions, in captions.txt")
    sample.add_argument("folder", type=file_name, metavar="FOLDER", help="where the pictures go")
    sample.add_argument("--count", type=at_least(1, 100_000), default=8, help="how many (default: 8)")
    sample.add_argument("--seed", type=seed, default=0, help="another seed, other scenes (default: 0)")
    sample.add_argument("--force", action="store_true", help="replace pictures that are there")

    train = action(
        "train",
        train_base,
        "train the Toybox model from nothing",
        "Train the Toybox model from nothing, on the CPU. It can be interrupted: the same command goes on.",
    )
    train.add_argument("folder", type=file_name, metavar="FOLDER", help="where its pictures, states and logs go (2 GB)")
    train.add_argument(
        "--scenes", type=at_least(40), default=30000, help="training pictures (default: 30000)"
    )
    train.add_argument("--scene-seed", type=seed, default=7, help="which pictures (default: 7)")
    train.add_argument("--seed", type=seed, default=0, help="of both trainings (default: 0)")
    for name, what in (
        ("autoencoder-steps", "the autoencoder"),
        ("steps", "the UNet and the text encoder"),
        ("decoder-steps", "the decoder alone, after the others"),
    ):
        train.add_argument(
            f"--{name}",
            type=at_least(1),
            metavar="STEPS",
            help=f"training steps of {what} (default: its own)",
        )

    export = action(
        "export", export_base, "write a trained Toybox model as a checkpoint that every host loads"
    )
    export.add_argument("folder", type=file_name, metavar="FOLDER", help="the folder of toybox train")
    export.add_argument(
        "out", type=file_name, metavar="OUT", help="the checkpoint (.safetensors); its yaml goes beside it"
    )
    export.add_argument("--force", action="store_true", help="replace the checkpoint if it is there")
    add_actions(action)


# -- pictures ------------------------------------------------------------------------------------------------


def write_photos(args) -> int:
    import numpy as np

    from ..toybox.world import BACKGROUNDS, CLASSES, SKINS, random_scene

    skins = {skin.name: skin for skin in SKINS}
    for option, value, known in (
        ("--class", args.cls, CLASSES),
        ("--skin", args.skin, skins),
        ("--background", args.background, BACKGROUNDS),
    ):
        if value not in known:
            raise PersresError(f"{option} {value} is not in the Toybox; it can be: {', '.join(known)}.")
    scenes = [
        random_scene(
            np.random.default_rng([args.seed, index]),
            count=1,
            skin=skins[args.skin],
            cls=args.cls,
            background=args.background,
            area=(0.12, 0.35),
        )
        for index in range(args.count)
    ]
    _draw(scenes, Path(args.folder), args.force)
    print(f"{args.folder}: {args.count} photos of a {args.cls} in the skin {args.skin}")
    return 0


def write_sample(args) -> int:
    import numpy as np

    from ..toybox.dataset import scene_of
    from ..toybox.world import describe

    folder = Path(args.folder)
    refuse_existing(folder / "captions.txt", args.force)
    scenes = [scene_of(args.seed, index) for index in range(args.count)]
    names = _draw(scenes, folder, args.force)
    captions = [describe(scene, np.random.default_rng([args.seed, i, 1])) for i, scene in enumerate(scenes)]
    lines = [f"{name}\t{caption.text}\n" for name, caption in zip(names, captions)]
    write_whole(folder / "captions.txt", "".join(lines).encode())
    print("".join(lines), end="")
    return 0


def _draw(scenes, folder: Path, force: bool) -> list[str]:
    """Write each scene's picture; the files' names."""
    from PIL import Image

    from ..toybox.render import render

    names = [f"{index:05d}.png" for index in range(len(scenes))]
    for name in names:
        refuse_existing(folder / name, force)
    make_folder(folder)
    for name, scene in zip(names, scenes):
        data = io.BytesIO()
        Image.fromarray(render(scene)[0]).save(data, "PNG")
        write_whole(folder / name, data.getvalue())
    return names


# -- the model -----------------------------------------------------------------------------------------------


def train_base(args) -> int:
    folder = Path(args.folder)
    make_folder(folder)
    # not the steps of the last training, which may go on; the latents are of an autoencoder that may not
    kept = ("scenes", "scene_seed", "seed", "autoencoder_steps")
    _same_settings(folder, {name: getattr(args, name) for name in kept})

    from ..toybox.dataset import SceneSet
    from ..toybox.train_autoencoder import finish_decoder, train_autoencoder
    from ..toybox.train_denoiser import encode_scenes, train_denoiser

    note(f"Drawing {args.scenes} scenes, or finding them")
    scenes = SceneSet(folder / "scenes", args.scenes, args.scene_seed)
    if len(scenes.pictures) != args.scenes:
        raise PersresError(
            f"{folder} holds {len(scenes.pictures)} scenes, not {args.scenes}: take another folder or number."
        )
    note(f"Training the autoencoder; its log is {folder / 'autoencoder.log'}")
    steps = {"steps": args.autoencoder_steps} if args.autoencoder_steps else {}
    vae = train_autoencoder(scenes, folder, seed=args.seed, **steps)
    note("Encoding the scenes, or finding them encoded")
    latents = encode_scenes(scenes, vae, folder)
    note(f"Training the UNet and the text encoder; their log is {folder / 'denoiser.log'}")
    steps = {"steps": args.steps} if args.steps else {}
    train_denoiser(scenes, latents, folder, seed=args.seed, **steps)
    note(f"Finishing the decoder; its log is {folder / 'decoder.log'}")
    steps = {"steps": args.decoder_steps} if args.decoder_steps else {}
    finish_decoder(scenes, latents, vae, folder, seed=args.seed, **steps)
    print(
        f"{folder} is trained; write its checkpoint with:\n  python -m lib_persres toybox export {folder} OUT"
    )
    return 0


def _same_settings(folder: Path, settings: dict) -> None:
    """Raise PersresError if the folder's training began with other settings: it would mix the two."""
    path = folder / SETTINGS
    if path.is_file():
        try:
            begun = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            begun = None
        if begun != settings:
            raise PersresError(
                f"The training in {folder} began with other settings ({path}): "
                "give the same, or another folder."
            )
    else:
        write_whole(path, (json.dumps(settings) + "\n").encode())


def export_base(args) -> int:
    folder, out = Path(args.folder), Path(args.out)
    if out.suffix != ".safetensors":
        raise PersresError(f"{out} is no name for a checkpoint: it must end in .safetensors.")
    refuse_existing(out, args.force)

    from ..standalone.checkpoint import save_sd1
    from ..standalone.modules import AutoencoderKL
    from ..toybox.train_autoencoder import DDCONFIG
    from ..toybox.train_denoiser import Model

    autoencoder, denoiser = _state(folder / "autoencoder.pt"), _state(folder / "denoiser.pt")
    scale = float(_state(folder / "latents.pt")["scale"])
    vae, model = AutoencoderKL(DDCONFIG, 4), Model()
    try:
        finished = _state(folder / "decoder.pt")["model"] if (folder / "decoder.pt").is_file() else {}
        vae.load_state_dict({**autoencoder["model"], **finished})
        model.load_state_dict(denoiser["average"])
    except (RuntimeError, KeyError) as error:
        raise PersresError(
            f"The states in {folder} are of another version of the Toybox: train it again."
        ) from error
    make_folder(out.parent)
    save_sd1(out, model.unet, vae, model.text, scale_factor=scale)
    print(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, autoencoder of {autoencoder['step']} steps, "
        f"UNet and text encoder of {denoiser['step']}"
    )
    return 0


def _state(path: Path) -> dict:
    import torch

    if not path.is_file():
        raise PersresError(f"{path} is missing: `python -m lib_persres toybox train {path.parent}` makes it.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file torch raises whatever its pickle or zip reader met
        raise PersresError(f"{path} is damaged: remove it and train again.") from error
