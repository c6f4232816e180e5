"""`train`: learn a concept from photos."""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path

from ..errors import PersresError, first_line
from ..names import SUFFIX, check_class, check_name, check_spelling
from ..training.recipe import Recipe
from ..training.recipes import RECIPES, recipe_of
from .common import (
    Formatter,
    add_model_options,
    at_least,
    check_pixels,
    check_side,
    checkpoint_path,
    file_name,
    is_files_name,
    is_toybox,
    load_model,
    make_folder,
    note,
    size_text,
    words,
)
from .training_files import TrainingFiles
from .training_options import add_options, changed, running
from .training_run import TrainingRun

DESCRIPTION = """\
Learn a concept (your dog, your cup) from 3 to 10 photos and write it as a small file, its residual.

The photos should show the concept alone, from some sides and if possible before different backgrounds.
Ctrl-C stops after the current step and keeps what was learned until then; a second Ctrl-C gives up. A training
that was ended early, however it was, goes on with the same command and --resume.
"""
EPILOG = """\
examples:
  python -m lib_persres train --images photos --name mine --class ball
      from all pictures in the folder, on the small Toybox model, into residuals/mine.safetensors
  python -m lib_persres train --checkpoint v1-5.safetensors --images a.jpg b.jpg c.jpg --name rex --class dog
      the paper's training on Stable Diffusion 1.5
"""
HEADER = 1_000_000
"""Bytes that a file may have beside its numbers, its picture among them."""


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
        "--images",
        nargs="+",
        type=file_name,
        required=True,
        metavar="PATH",
        help="a folder with the photos, or the photos",
    )
    important.add_argument(
        "--name", type=words, required=True, help="the concept's name in prompts, as rex in <persres:rex:1.0>"
    )
    important.add_argument(
        "--class",
        type=words,
        required=True,
        dest="macro_class",
        metavar="NOUN",
        help='the plain word for such a thing, as "dog"; the model must know it',
    )
    important.add_argument(
        "--out",
        metavar="PATH",
        type=file_name,
        default="residuals",
        help="the file (….safetensors), or the folder for NAME.safetensors (default: residuals)",
    )
    important.add_argument(
        "--overwrite",
        "--force",
        dest="force",
        action="store_true",
        help="replace the file if it is there already, and begin anew what was ended early",
    )
    important.add_argument(
        "--resume",
        action="store_true",
        help="go on with a training that was ended early, by the same options as then",
    )
    important.add_argument(
        "--save-every",
        type=at_least(0),
        metavar="N",
        help="write the training's state beside the file each N steps, so that --resume goes on from there even after "
        "a crash; 0: only when it is told to end (default: so seldom that it costs little)",
    )
    important.add_argument(
        "--recipe",
        choices=list(RECIPES),
        help="a set of training values (default: toybox for the Toybox model, else paper). "
        + " ".join(f"{name}: {recipe.about}" for name, recipe in RECIPES.items()),
    )
    values = parser.add_argument_group("the recipe's values", "Each of these replaces the recipe's own.")
    values.add_argument(
        "--class-images",
        nargs="+",
        type=file_name,
        metavar="PATH",
        help="other things of the class, for recipes that keep the class (default: the model draws some first)",
    )
    tinkering = parser.add_argument_group("tinkering")
    tinkering.add_argument(
        "--identifier",
        metavar="WORD",
        type=words,
        help="the rare word that V* stands for (default: one that no other concept of this class has)",
    )
    tinkering.add_argument(
        "--no-preview",
        action="store_true",
        help="write no picture into the file; the others' is one that the model draws at the end, never a photo",
    )
    add_options(values, tinkering)
    add_model_options(important, tinkering)


def run(args) -> int:
    name = check_name(args.name)
    macro_class = check_class(args.macro_class)
    out = output_file(args.out, name)
    check_name(out.stem)
    if args.identifier:
        check_spelling(args.identifier)
    checkpoint = checkpoint_path(args.checkpoint)
    recipe = changed(recipe_of(args.recipe, is_toybox(checkpoint)), args)
    if recipe.resolution:
        _check_pixels(recipe, recipe.resolution)
    recipe.prompt("", "")  # a template that cannot be filled in is told before anything is loaded
    if args.resume and args.force:
        raise PersresError("--resume goes on with a training and --overwrite begins anew: give one of them.")
    files = TrainingFiles(out, args.force, args.resume)
    if files.finished(name, macro_class, recipe):
        note(f"{out} is finished ({recipe.steps} of {recipe.steps} steps): there is nothing left to go on with.")
        print("Draw it with:\n  " + example(args.checkpoint, out, macro_class))
        return 0
    files.check()

    from ..residual import rank_of
    from ..training.estimate import LEARNING, estimate
    from ..training.images import list_files, load_images
    from ..training.loop import learn
    from ..training.prepare import prepare

    for stage in recipe.stages:
        rank_of(stage.rank, 320)
    given = list_files(_paths(args.images), tell=note)
    of_class = list_files(_paths(args.class_images), tell=note) if args.class_images else []
    photos = load_images(given, beside=len(of_class), tell=note)
    class_photos = load_images(of_class, beside=len(given), tell=note) if of_class else None
    if class_photos and not recipe.keeps_class:
        raise PersresError(f"The recipe {recipe.name} has no use for --class-images: take one that keeps the class.")
    make_folder(out.parent)

    with files.lock():
        files.check()  # once more: another may have ended meanwhile
        sd = load_model(checkpoint, args.device, args.dtype)
        resolution = recipe.resolution or sd.side
        check_side(sd.unet.params, resolution, "--resolution")
        _check_pixels(recipe, resolution)
        size = estimate(recipe, sd.unet)
        files.check_room(size.file + HEADER, LEARNING * 3 * size.learned + HEADER)

        def told(resolution: int, identifier: str) -> None:
            note(
                f'{"Going on with" if args.resume else "Learning"} "{name}" from {len(photos)} '
                f"photo{'s' * (len(photos) > 1)} at {resolution}×{resolution}: {recipe.steps} steps, recipe "
                f"{recipe.name}, V* is {identifier}"
            )

        with TrainingRun(recipe, files, args.save_every) as training:
            trainer = prepare(
                sd,
                photos,
                name,
                macro_class,
                recipe,
                running(args),
                identifier=args.identifier or files.identifier(),
                others=(path for path in sorted(out.parent.glob(f"*{SUFFIX}")) if path != out),
                class_photos=class_photos,
                told=told,
            )
            training.begin(trainer)
            learn(
                trainer,
                after_step=training.after_step,
                should_stop=training.should_stop,
                tell=note,
                drawing=training.drawing,
            )
            residual = trainer.residual()
            finished = residual.metadata.steps == recipe.steps
            kept = not finished and training.save_state()
            written, elsewhere = files.place(residual)
        if finished:
            files.forget_state()
        told_to_go = training.ended_by not in (None, signal.SIGINT)
        if not args.no_preview and not told_to_go and not elsewhere:
            _add_picture(sd, residual, files, recipe.prompt("V*", macro_class), resolution, args.seed)
    if not finished:
        how = training.how_to_resume() if kept else "It cannot be resumed."
        note(f"Stopped after {residual.metadata.steps} of {recipe.steps} steps, which are kept. {how}")
    _tell(residual, written, training.seconds)
    print("Draw it with:\n  " + example(args.checkpoint, written, macro_class))
    if elsewhere:
        note(f"{'warning' if written.parent == out.parent else 'error'}: {elsewhere}")
    if not finished:
        assert training.ended_by is not None  # nothing else stops it
        return 128 + training.ended_by
    return 1 if written.parent != out.parent else 0


def _check_pixels(recipe: Recipe, side: int) -> None:
    check_pixels(max(stage.rows for stage in recipe.stages), side, side, "rows of a step", "--batch or --resolution")
    views = (1 + recipe.crops) * (1 + recipe.flips)
    check_pixels(views, side, side, "views of a photo", "--crops or --resolution")


def _tell(residual, written: Path, seconds: float) -> None:
    metadata = residual.metadata
    print(
        f"{written}: {residual.parameters_count():,} parameters, {size_text(written.stat().st_size)}, loss "
        f"{metadata.loss['first']:.4f} → {metadata.loss['last']:.4f} in {metadata.steps} steps, {seconds:.0f} s"
    )


def _add_picture(sd, residual, files: TrainingFiles, prompt: str, resolution: int, number: int) -> None:
    """Draw the concept into its file, which is there already: whatever happens here does not cost it."""
    from ..thumbnail import thumbnail
    from ..training.preview import draw

    note("Drawing a picture for the file (Ctrl-C leaves it out)")
    try:
        (image,) = draw(sd, residual, prompt, resolution, number, lag=[False])
        residual.metadata.preview = thumbnail(image)
        if files.is_own(files.out, residual.metadata):
            residual.save(files.out)
    except KeyboardInterrupt:
        note("The file has no picture.")
    except Exception as error:
        note(f"warning: No picture could be drawn for the file: {first_line(error)}.")


def _paths(given: list[str]) -> str | list[str]:
    return given[0] if len(given) == 1 else given


def output_file(out: str, name: str) -> Path:
    """The file that --out means: itself, or NAME.safetensors in a folder."""
    path = Path(out)
    if os.path.isdir(path) or not is_files_name(path):
        return path / f"{name}{SUFFIX}"
    if path.suffix.lower() != SUFFIX:
        raise PersresError(f"--out {path} is no name for a residual: it must end in {SUFFIX}, or be a folder.")
    return path.with_suffix(SUFFIX)


def example(checkpoint: str, out: Path, macro_class: str) -> str:
    """The command that draws what was just learned."""
    command = ["python", "-m", "lib_persres", "generate"]
    command += ["--checkpoint", checkpoint] if checkpoint != "toybox" else []
    command += ["--residuals", str(out.parent)] if out.parent != Path("residuals") else []
    prompt = f"<persres:{out.stem}:1.0> a photo of a V* {macro_class}"
    return f'{shlex.join(command)} --prompt "{prompt}"'  # these quotes are every shell's
