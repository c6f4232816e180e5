"""`train`: learn a concept from photos."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import threading
import time
from collections import deque
from pathlib import Path

from ..errors import PersresError, first_line
from ..names import SUFFIX, check_class, check_name
from ..training.names import free_identifier
from ..training.precision import PRECISIONS
from ..training.recipe import Recipe
from ..training.recipes import RECIPES
from .common import (
    Formatter,
    add_model_options,
    at_least,
    check_side,
    checkpoint_path,
    default_resolution,
    is_toybox,
    load_model,
    make_folder,
    note,
    progress_bar,
    refuse_existing,
    seed,
    size_text,
)

DESCRIPTION = """\
Learn a concept (your dog, your cup) from 3 to 10 photos and write it as a small file, its residual.

The photos should show the concept alone, from some sides and if possible before different backgrounds.
Ctrl-C stops after the current step and keeps what was learned until then; a second Ctrl-C gives up.
"""
EPILOG = """\
examples:
  python -m lib_persres train --images photos --name mine --class ball
      from all pictures in the folder, on the small Toybox model, into residuals/mine.safetensors
  python -m lib_persres train --checkpoint v1-5.safetensors --images a.jpg b.jpg c.jpg --name rex --class dog
      the paper's training on Stable Diffusion 1.5
"""
NOT_OURS = (".ckpt", ".pt", ".pth", ".bin")


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "train",
        help="learn a concept from a few photos",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=Formatter,
    )
    parser.set_defaults(run=run)
    important = parser.add_argument_group("what to learn")
    important.add_argument(
        "--images", nargs="+", required=True, metavar="PATH", help="a folder with the photos, or the photos"
    )
    important.add_argument(
        "--name", required=True, help="the concept's name in prompts, as rex in <persres:rex:1.0>"
    )
    important.add_argument(
        "--class",
        required=True,
        dest="macro_class",
        metavar="NOUN",
        help='the plain word for such a thing, as "dog"; the model must know it',
    )
    important.add_argument(
        "--out",
        metavar="PATH",
        default="residuals",
        help="the file (….safetensors), or the folder for NAME.safetensors (default: residuals)",
    )
    important.add_argument("--force", action="store_true", help="replace the file if it is there already")
    important.add_argument(
        "--recipe",
        choices=list(RECIPES),
        help="a set of training values (default: toybox for the Toybox model, else paper). "
        + " ".join(f"{name}: {recipe.about}" for name, recipe in RECIPES.items()),
    )
    values = parser.add_argument_group("the recipe's values", "Each of these replaces the recipe's own.")
    values.add_argument("--steps", type=at_least(1), help="training steps")
    values.add_argument("--batch", type=at_least(1), help="images in a step")
    values.add_argument("--lr", type=float, metavar="RATE", help="learning rate")
    values.add_argument("--rank", help="the residual's rank: a part of the width as 0.05m, or a number as 8")
    values.add_argument(
        "--targets",
        metavar="RULE",
        help="what of each block learns: proj_out, proj_in, kv (keys and values), attn2 (all of its cross-attention), "
        "attn1 (its self-attention), unet, embedding (V*'s own vector), or several as kv+proj_out; "
        "LAG confines proj_out alone",
    )
    values.add_argument("--crops", type=at_least(0), help="random crops of each photo, beside its centre")
    values.add_argument(
        "--flips",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="learn from mirror images, too; wrong for a thing with a left and a right side",
    )
    values.add_argument(
        "--template", help='the prompt to learn with (default: "a photo of a {identifier} {macro_class}")'
    )
    values.add_argument(
        "--class-images",
        nargs="+",
        metavar="PATH",
        help="other things of the class, for recipes that keep the class (default: the model draws some first)",
    )
    tinkering = parser.add_argument_group("tinkering")
    tinkering.add_argument(
        "--identifier",
        metavar="WORD",
        help="the rare word that V* stands for (default: one that no other concept of this class has)",
    )
    tinkering.add_argument(
        "--resolution",
        type=at_least(1),
        metavar="PIXELS",
        help="side of the crops (default: the model's own)",
    )
    tinkering.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="the numbers to compute in while training (default: as the model's, see --dtype)",
    )
    tinkering.add_argument(
        "--checkpointing",
        action="store_true",
        help="less memory and the same result; each step takes about a third longer",
    )
    tinkering.add_argument(
        "--no-preview",
        action="store_true",
        help="write no picture into the file; the others' is one that the model draws at the end, never a photo",
    )
    tinkering.add_argument("--seed", type=seed, default=0, help="the same seed learns the same (default: 0)")
    add_model_options(important, tinkering)


def run(args) -> int:
    name = check_name(args.name)
    macro_class = check_class(args.macro_class)
    out = output_file(args.out, name)
    check_name(out.stem)
    checkpoint = checkpoint_path(args.checkpoint)
    recipe = RECIPES[args.recipe or ("toybox" if is_toybox(checkpoint) else "paper")]
    options = {"steps": "--steps", "batch": "--batch", "learning_rate": "--lr", "targets": "--targets"}
    recipe.refuse_in_stages({name: option for name, option in options.items() if getattr(args, option[2:])})
    recipe = recipe.changed(
        steps=args.steps,
        batch=args.batch,
        learning_rate=args.lr,
        rank=args.rank,
        targets=args.targets,
        crops=args.crops,
        flips=args.flips,
        template=args.template,
    )
    recipe.prompt("", "")  # a template that cannot be filled in is told before anything is loaded
    refuse_existing(out, args.force)

    from ..residual import rank_of
    from ..training.images import load_images
    from ..training.loop import train

    for stage in recipe.stages:
        rank_of(stage.rank, 320)
    photos = load_images(_paths(args.images))
    class_photos = load_images(_paths(args.class_images)) if args.class_images else None
    if class_photos and not recipe.keeps_class:
        raise PersresError(f"The recipe {recipe.name} has no use for --class-images: take one that keeps the class.")
    make_folder(out.parent)

    sd = load_model(checkpoint, args.device, args.dtype)
    resolution = args.resolution or default_resolution(sd.unet.params)
    check_side(sd.unet.params, resolution, "--resolution")
    others = (path for path in sorted(out.parent.glob(f"*{SUFFIX}")) if path != out)
    identifier = args.identifier or free_identifier(sd.encode_text, macro_class, others)
    note(
        f'Learning "{name}" from {len(photos)} photo{"s" * (len(photos) > 1)} '
        f"at {resolution}×{resolution}: {recipe.steps} steps, recipe {recipe.name}, V* is {identifier}"
    )
    with _Training(recipe) as training:
        residual = train(
            sd,
            photos,
            name,
            macro_class,
            recipe,
            resolution=resolution,
            seed=args.seed,
            identifier=identifier,
            precision=args.precision,
            checkpointing=args.checkpointing,
            class_photos=class_photos,
            progress=training.progress,
            should_stop=training.should_stop,
            tell=note,
            drawing=training.drawing,
        )
        residual.save(out)
    metadata = residual.metadata
    if not args.no_preview:
        _add_picture(sd, residual, out, recipe.prompt("V*", macro_class), resolution, args.seed)
    if metadata.steps < recipe.steps:
        note(f"Stopped after {metadata.steps} of {recipe.steps} steps; what was learned until then is kept.")
    print(
        f"{out}: {residual.parameters_count():,} parameters, {size_text(out.stat().st_size)}, loss "
        f"{metadata.loss['first']:.4f} → {metadata.loss['last']:.4f} in {metadata.steps} steps, "
        f"{training.seconds:.0f} s"
    )
    print("Draw it with:\n  " + example(args.checkpoint, out, macro_class))
    return 0


def _add_picture(sd, residual, out: Path, prompt: str, resolution: int, number: int) -> None:
    """Draw the concept into its file, which is there already: whatever happens here does not cost it."""
    from ..standalone.preview import draw
    from ..thumbnail import thumbnail

    note("Drawing a picture for the file (Ctrl-C leaves it out)")
    try:
        (image,) = draw(sd, residual, prompt, resolution, number, lag=[False])
        residual.metadata.preview = thumbnail(image)
        residual.save(out)
    except KeyboardInterrupt:
        note("The file has no picture.")
    except Exception as error:
        note(f"warning: No picture could be drawn for the file: {first_line(error)}.")


def _paths(given: list[str]) -> str | list[str]:
    return given[0] if len(given) == 1 else given


def output_file(out: str, name: str) -> Path:
    """The file that --out means: itself, or NAME.safetensors in a folder."""
    path = Path(out)
    if path.suffix.lower() in NOT_OURS:
        raise PersresError(
            f"--out {path} is no name for a residual: it must end in {SUFFIX}, or be a folder."
        )
    return path if path.suffix == SUFFIX and not os.path.isdir(path) else path / f"{name}{SUFFIX}"


def example(checkpoint: str, out: Path, macro_class: str) -> str:
    """The command that draws what was just learned."""
    words = ["python", "-m", "lib_persres", "generate"]
    words += ["--checkpoint", checkpoint] if checkpoint != "toybox" else []
    words += ["--residuals", str(out.parent)] if out.parent != Path("residuals") else []
    prompt = f"<persres:{out.stem}:1.0> a photo of a V* {macro_class}"
    return f'{shlex.join(words)} --prompt "{prompt}"'  # these quotes are every shell's


class _Training:
    """The bar, and what Ctrl-C means, while steps are made.

    The loop asks `should_stop` before each step, so the bar's clock starts with the first step and not
    with the encoding of the photos.
    """

    def __init__(self, recipe: Recipe):
        self.recipe, self.stop, self.seconds = recipe, False, 0.0
        self._done, self._bar, self._losses, self._started = 0, None, deque(maxlen=20), 0.0
        self._before = self._pictures = None

    def __enter__(self) -> _Training:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handler
            self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        for bar in (self._pictures, self._bar):
            if bar is not None:
                bar.close()

    def drawing(self, drawn: int, count: int) -> None:
        """Pictures of the class, by the model; Ctrl-C gives up, since nothing is learned yet."""
        if self._pictures is None:
            self._pictures = progress_bar(count, "pictures")
            self._pictures.set_description_str("drawing pictures of the class")
        self._pictures.update(drawn - self._pictures.n)
        if drawn == count:
            self._pictures.close()

    def should_stop(self) -> bool:
        if self._bar is None:
            self._bar, self._started = progress_bar(self.recipe.steps, "steps"), time.monotonic()
        return self.stop

    def progress(self, done: int, total: int, loss: float) -> None:
        self._done, self.seconds = done, time.monotonic() - self._started
        self._losses.append(loss)
        if len(self.recipe.stages) > 1:
            self._bar.set_description_str(self.recipe.place(done), refresh=False)
        # the loss of a step jumps with its timesteps: the mean of the last ones shows where it goes
        self._bar.set_postfix_str(f"loss {sum(self._losses) / len(self._losses):.4f}", refresh=False)
        self._bar.update(done - self._bar.n)

    def _interrupt(self, *_) -> None:
        if self.stop or not self._done:  # the second time, or there is nothing to keep yet
            raise KeyboardInterrupt
        self.stop = True
        # os.write, since print may not be called while the bar is being printed
        os.write(2, b"\nStopping after this step and keeping what was learned; Ctrl-C again gives up.\n")
