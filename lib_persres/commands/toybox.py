"""`toybox`: pictures of the small synthetic world, its model's training, and that model in a WebUI."""

from __future__ import annotations

import io
from pathlib import Path

from ..errors import PersresError
from ..writing import write_whole
from .common import Formatter, at_least, file_name, make_folder, refuse_existing, seed, words
from .toybox_convert import add_convert
from .toybox_install import add_actions
from .toybox_training import add_training

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
  python -m lib_persres toybox convert --family SDXL --out toybox-sdxl.safetensors
      the same model in SDXL's format, which draws the same pictures

the model can be made again:
  python -m lib_persres toybox train base
  python -m lib_persres toybox cool base
  python -m lib_persres toybox judge base
"""


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

    photos = action("photos", write_photos, '"photos" of a thing that the model has never seen, to learn from')
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

    add_training(action)
    add_actions(action)
    add_convert(action)


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

    from ..toybox.scenes import caption_of, scene_of

    folder = Path(args.folder)
    refuse_existing(folder / "captions.txt", args.force)
    scenes = [scene_of(args.seed, index) for index in range(args.count)]
    names = _draw(scenes, folder, args.force)
    captions = [caption_of(scene, np.random.default_rng([args.seed, i, 1])) for i, scene in enumerate(scenes)]
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
