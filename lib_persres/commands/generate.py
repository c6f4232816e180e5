"""`generate`: pictures from a prompt, with concepts, with or without LAG."""

from __future__ import annotations

from pathlib import Path

from .. import __version__
from ..concepts import UNCONDITIONAL, wants_lag
from ..lag_choice import LAG
from ..masks import DEFAULT, MASKS
from ..progress import progress_bar
from ..prompt import NEGATIVE, Tag, parse_tags
from .common import (
    Formatter,
    add_model_options,
    at_least,
    check_pixels,
    check_side,
    checkpoint_path,
    file_name,
    finite,
    load_model,
    make_folder,
    note,
    seeds,
    words,
)

DESCRIPTION = """\
Draw pictures from a prompt.

<persres:NAME:STRENGTH> in the prompt switches a learned concept on, and V* says where it goes: write
V* before the concept's class, as in "a V* dog". With two concepts write V1* and V2*, in the order of
their tags. With --lag (localized attention-guided sampling) a concept changes the picture only where
it is seen, and the rest is drawn by the model as it was.
"""
EPILOG = """\
examples:
  python -m lib_persres generate --prompt "<persres:mine:1.0> a photo of a V* ball in snow"
  python -m lib_persres generate --lag --masks --seeds 0-7 \\
      --prompt "<persres:mine> a photo of a V* ball at night"
  python -m lib_persres generate --checkpoint v1-5.safetensors --seeds 1 2 3 \\
      --prompt "<persres:rex:1.0> <persres:tom:0.8> a photo of a V1* dog and a V2* cat on the beach"

A tag may also say lag=on or lag=off, and start= and end= (parts of the sampling from 0 to 1).
"""


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "generate",
        help="draw pictures, with learned concepts",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=Formatter,
    )
    parser.set_defaults(run=run)
    important = parser.add_argument_group("what to draw")
    important.add_argument(
        "--prompt", type=words, required=True, help="what the picture shows, with the concepts' tags"
    )
    important.add_argument(
        "--lag",
        nargs="?",
        choices=LAG,
        const="on",
        default="off",
        help="keep each concept to its place in the picture; auto: unless the prompt says that it lends its look, as "
        '"in the style of V*" (default: off; --lag alone: on)',
    )
    important.add_argument(
        "--seeds",
        nargs="+",
        type=seeds,
        default=[[0]],
        metavar="SEED",
        help="a picture for each: numbers, or ranges as 0-7 (default: 0)",
    )
    important.add_argument(
        "--residuals",
        metavar="FOLDER",
        type=file_name,
        default="residuals",
        help="where the concepts are (default: residuals)",
    )
    important.add_argument(
        "--out", metavar="FOLDER", type=file_name, default="outputs", help="where the pictures go (default: outputs)"
    )
    important.add_argument("--masks", action="store_true", help="also write where LAG let the concepts act")
    tinkering = parser.add_argument_group("tinkering")
    tinkering.add_argument(
        "--negative", type=words, default="", metavar="PROMPT", help="what the picture should not show"
    )
    tinkering.add_argument("--steps", type=at_least(1), default=50, help="sampling steps (default: 50)")
    tinkering.add_argument(
        "--guidance",
        type=finite,
        metavar="SCALE",
        default=6.0,
        help="how much the prompt counts (default: 6; 1 is off)",
    )
    for side in ("width", "height"):
        tinkering.add_argument(
            f"--{side}",
            type=at_least(1, 8192),
            metavar="PIXELS",
            help=f"the pictures' {side} (default: the model's own)",
        )
    tinkering.add_argument(
        "--mask",
        type=words,
        default=DEFAULT,
        help=f"LAG's masks: {' or '.join(MASKS)}, the paper's (default: {DEFAULT})",
    )
    tinkering.add_argument(
        "--unconditional",
        choices=UNCONDITIONAL,
        default="mirror",
        help="what LAG does to the unconditional half: the same (mirror, the default), or nothing (base)",
    )
    tinkering.add_argument(
        "--batch", type=at_least(1, 1024), default=4, help="pictures at a time; fewer need less memory (default: 4)"
    )
    add_model_options(important, tinkering)


def run(args) -> int:
    # What can be told without the model is told before it is loaded.
    checkpoint = checkpoint_path(args.checkpoint)
    given, tags = parse_tags(args.prompt)
    tags = list({tag.name: tag for tag in tags}.values())
    from ..lora.adapter import reader
    from ..masks import check_mask
    from ..residual_folder import ResidualFolder

    wanted = [seed for part in args.seeds for seed in part]
    at_once = min(args.batch, len(wanted))
    _check_pixels(at_once, args.width or 1, args.height or 1)
    check_mask(args.mask)
    advice = "train a concept first or name another with --residuals"
    files = ResidualFolder(
        lambda: Path(args.residuals), lambda: len(tags), anywhere=True, advice=advice, reader=reader()
    )
    residuals = {tag.name: files.load(tag.name) for tag in tags}

    from ..residual import family_misfit
    from ..standalone.generate import generate
    from ..standalone.reading import sentences
    from .pictures import PictureFolder, infotext, write_png

    told: list[str] = []

    def tell(sentence: str) -> None:
        if sentence not in told:
            note(f"warning: {sentence}")
            told.append(sentence)

    from ..lora.adapter import called, word_in

    named = [residuals[tag.name].residual for tag in tags]
    facts = [called(residual, word_in(residual, given, tag)) for residual, tag in zip(named, tags)]
    for text, what in ((given, "prompt"), (args.negative if args.guidance != 1 else "", NEGATIVE)):
        for sentence in sentences(text, tags, facts, what):
            tell(sentence)
    make_folder(Path(args.out))
    sd = load_model(checkpoint, args.device, args.dtype)
    side = sd.side
    width, height = args.width or side, args.height or side
    check_side(sd.unet.params, width, "--width")
    check_side(sd.unet.params, height, "--height")
    _check_pixels(at_once, width, height)
    for tag in tags:
        learned = residuals[tag.name].residual.metadata
        base = learned.base_hash
        if base and base != sd.hash and not family_misfit(learned.base_family, sd.family):
            note(f"note: {tag.name} was trained on another checkpoint, {base[:10]}; it may look otherwise.")

    folder = PictureFolder(Path(args.out))
    settings = _settings(args, tags, f"{width}x{height}", sd, residuals)
    bar = None
    try:
        for start in range(0, len(wanted), args.batch):

            def progress(done: int, steps: int, start: int = start) -> None:
                nonlocal bar
                if bar is None:
                    bar = progress_bar(steps * -(-len(wanted) // args.batch), "steps")
                bar.update(steps * (start // args.batch) + done - bar.n)

            result = generate(
                sd,
                args.prompt,
                lambda name: residuals[name].residual,
                seeds=wanted[start : start + args.batch],
                width=width,
                height=height,
                negative=args.negative,
                steps=args.steps,
                guidance=args.guidance,
                lag=args.lag,
                mask=args.mask,
                unconditional=args.unconditional,
                progress=progress,
                tell=tell,
            )
            overlays = _overlays(result) if args.masks else []
            for index, (image, seed) in enumerate(zip(_images(result.images), result.seeds)):
                own = {"Seed": seed, "Persres problems": " ".join(result.problems) or None}
                auto = [f"{tag.name}: {use.decided}" for tag, use in zip(tags, result.uses) if use.decided]
                own["Persres LAG auto"] = ", ".join(auto) or None
                written = folder.save(image, seed, infotext(args.prompt, args.negative, {**settings, **own}))
                print(written, flush=True)
                if overlays:
                    mask = written.with_name(f"{written.stem}-mask.png")
                    print(write_png(mask, overlays[index]), flush=True)
    finally:
        if bar is not None:
            bar.close()
    if args.masks and not overlays:
        why = _why_no_masks(tags, result.uses, args)
        note(f"warning: There are no masks to show, since {why}.")
    return 0


def _check_pixels(pictures: int, width: int, height: int) -> None:
    check_pixels(pictures, width, height, "pictures", "--batch, --width or --height")


def _settings(args, tags: list[Tag], size: str, sd, residuals) -> dict[str, object]:
    """What every picture's metadata say; the seed and the problems are filled in for each."""
    concepts = [f"{tag.name}: {tag.strength} ({residuals[tag.name].short_hash})" for tag in tags]
    confined = any(wants_lag(tag, args.lag) for tag in tags)
    return {
        "Steps": args.steps,
        "Sampler": "DDIM",
        "CFG scale": args.guidance,
        "Seed": None,
        "Size": size,
        "Model hash": sd.short_hash,
        "Model": sd.path.stem,
        "RNG": "CPU",
        "Persres": ", ".join(concepts) or None,
        "Persres LAG": f"{args.mask}/{args.unconditional}" if confined else None,
        "Persres LAG auto": None,
        "Persres problems": None,
        "Version": f"persres {__version__}",
    }


def _why_no_masks(tags: list[Tag], uses, args) -> str:
    """Of the first concept that LAG should have confined."""
    if not tags:
        return "the prompt has no concept's tag, and LAG confines concepts"
    wanted = [(tag, use) for tag, use in zip(tags, uses) if wants_lag(tag, args.lag)]
    if not wanted:
        return "no concept was drawn with LAG: add --lag"
    tag, use = wanted[0]
    if use.decided.startswith("off"):
        return f"LAG auto is {use.decided}, for {tag.text}: lag=on confines it"
    if not any(use.indices):
        return f"{tag.text} has no place in the prompt: write V* where it is to be"
    if tag.strength == 0:
        return f"{tag.text} acts at strength 0: give it one such as 1.0"
    if tag.start > 0 or tag.end < 1:
        return f"none of the {args.steps} steps lies between the start= and the end= of {tag.text}"
    return f"LAG cannot confine {tag.text}"


def _images(images) -> list:
    """(b,3,H,W) in [0,1] -> Pillow images."""
    from PIL import Image

    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]


def _overlays(result) -> list:
    """The pictures with the mean masks of the concepts that LAG confined; none without LAG."""
    from ..overlay import overlay

    confined = [index for index, use in enumerate(result.uses) if use.gated]
    if result.masks is None or not result.masks.masks or not confined:
        return []
    masks = result.masks.mean("masks")[:, confined]
    return [overlay(image, mask) for image, mask in zip(_images(result.images), masks)]
