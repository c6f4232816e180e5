"""`evaluate`: the papers' protocol: train, sample, score and report."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from ..errors import PersresError
from .common import (
    TOYBOX_CHECKPOINT,
    Formatter,
    add_model_options,
    at_least,
    checkpoint_path,
    file_name,
    make_folder,
    note,
    words,
)

DESCRIPTION = """\
Measure residuals as the papers do: learn the concepts of a dataset, draw each prompt by each method from the
same noise, score the pictures, and print the papers' tables.
"""
EPILOG = """\
examples:
  python -m lib_persres evaluate run --suite toybox-quick --out quick
      the small Toybox model, in some minutes
  python -m lib_persres evaluate run --suite paper --out paper --checkpoint sd-v1-4.safetensors \\
      --dataset customconcept101 --root CustomConcept101 --clip clip-vit-base-patch32 --dino dino-vits16 \\
      --nouns wordnet/index.noun
      the paper's protocol; with --ray auto on a Ray cluster
  python -m lib_persres evaluate score quick
  python -m lib_persres evaluate report quick

A run that was stopped goes on with the same command and repeats nothing.
"""
KINDS = ("toybox", "customconcept101", "dreambooth", "attndreambooth", "folder")
SHIPPED_CLIP = TOYBOX_CHECKPOINT.parent / "clip"
"""A CLIP of the Toybox's own words, where one comes along."""


def as_path(given: str) -> Path:
    return Path(file_name(given))


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="measure as the papers do: train, sample, score, report",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=Formatter,
    )
    parser.set_defaults(run=None, parser=parser)
    actions = parser.add_subparsers(title="what to do", metavar="ACTION")
    _add_run(actions)
    _add_score(actions)
    made = actions.add_parser("report", help="write the report of a run", formatter_class=Formatter)
    made.set_defaults(run=report)
    made.add_argument("folder", metavar="DIR", type=as_path, help="a run's folder")


def _add_run(actions) -> None:
    made = actions.add_parser("run", help="train, sample and score; or go on with it", formatter_class=Formatter)
    made.set_defaults(run=run)
    what = made.add_argument_group("what to measure")
    what.add_argument(
        "--suite",
        type=file_name,
        required=True,
        metavar="NAME",
        help="paper, toybox, toybox-quick, toybox-demo, toybox-recipes, toybox-choices, or a suite's JSON file",
    )
    what.add_argument("--out", required=True, metavar="DIR", type=as_path, help="the run's folder")
    what.add_argument("--dataset", choices=KINDS, default="toybox", help="its layout (default: toybox)")
    what.add_argument("--root", metavar="DIR", type=as_path, help="where the dataset is")
    what.add_argument(
        "--class", dest="macro_class", type=words, metavar="NOUN", help="of the thing in a folder of photos"
    )
    what.add_argument("--prompts", metavar="FILE", type=as_path, help="other prompts, one a line with {}")
    what.add_argument(
        "--nouns",
        metavar="FILE",
        type=as_path,
        help="where the suite chooses macro classes: its nouns, one a line, such as WordNet's index.noun",
    )
    what.add_argument("--only", nargs="+", type=words, default=[], metavar="CONCEPT", help="only these concepts now")
    _add_embedders(what)
    how = made.add_argument_group("how")
    how.add_argument(
        "--workers", type=at_least(1, 1024), metavar="N", help="processes (default: 1 on a GPU, else one for each core)"
    )
    how.add_argument(
        "--ray",
        type=words,
        metavar="ADDRESS",
        help="do the work on a Ray cluster: its address, auto, or local for this machine",
    )
    how.add_argument("--batch", type=at_least(1, 1024), default=4, help="pictures at a time (default: 4)")
    add_model_options(what, how)


def _add_score(actions) -> None:
    made = actions.add_parser("score", help="score a run's pictures again", formatter_class=Formatter)
    made.set_defaults(run=score)
    made.add_argument("folder", metavar="DIR", type=as_path, help="a run's folder")
    _add_embedders(made)


def _add_embedders(parser) -> None:
    parser.add_argument(
        "--clip", type=file_name, metavar="PATH", help="CLIP ViT-B/32: its folder, or OpenAI's ViT-B-32.pt"
    )
    parser.add_argument("--dino", type=file_name, metavar="PATH", help="DINO ViT-S/16: its folder, or DINO's own .pth")


def run(args) -> int:
    from ..evaluation.planning import Source
    from ..evaluation.run import perform
    from ..evaluation.run_folder import RunFolder
    from ..evaluation.suite import Suite

    suite = Suite.read(args.suite)
    checkpoint = checkpoint_path(args.checkpoint).resolve()
    if args.root is None and args.dataset != "toybox":
        raise PersresError(f"Say with --root where the {args.dataset} dataset is.")
    make_folder(args.out)
    source = Source(args.dataset, args.root or args.out / "photos", args.macro_class, args.prompts)
    scorer = make_scorer(args, args.dataset)
    execute, options = _executor(args)
    perform(
        RunFolder(args.out.resolve()),
        suite,
        source,
        checkpoint,
        execute,
        scorer=scorer,
        only=args.only,
        nouns=args.nouns,
        command=shlex.join(["python", "-m", "lib_persres", *_words()]),
        told=note,
        batch=args.batch,
        **options,
    )
    return _report(args.out)


def _words() -> list[str]:
    return sys.argv[1:]


def _executor(args):
    """What does the pieces, and the options of theirs that follow from it."""
    import torch

    from ..evaluation.workers import run_here, run_local
    from .common import _device

    if args.device != "auto":
        _device(args.device)
    gpu = torch.cuda.is_available() if args.device == "auto" else args.device != "cpu"
    workers = args.workers or (1 if gpu else os.cpu_count() or 1)
    types = {"auto": None, "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
    options = {"device": None if args.device == "auto" else args.device, "dtype": types[args.dtype]}
    if args.ray:
        from ..evaluation.ray_workers import run_ray

        return (lambda pieces, report: run_ray(pieces, args.ray, report, args.workers)), options | {"threads": 1}
    if workers == 1:
        return run_here, options
    # on few cores, single-threaded processes side by side do more than one with many threads
    return (lambda pieces, report: run_local(pieces, workers, report)), options | {"threads": None if gpu else 1}


def make_scorer(args, kind: str):
    """The scorer that the options name. A file that is missing is told before any work is done."""
    from ..evaluation.scoring import Scorer

    clip = args.clip or (SHIPPED_CLIP if kind == "toybox" and SHIPPED_CLIP.is_dir() else None)
    judge, threads = None, 1 if kind == "toybox" and not (args.clip or args.dino) else None
    if kind == "toybox":
        from ..toybox.judge import Judge

        judge = Judge.load()
    if clip or args.dino:
        import torch

        from ..evaluation.scores.clip import ClipEmbedder
        from ..evaluation.scores.dino import DinoEmbedder

        device = "cuda" if torch.cuda.is_available() else "cpu"
        return Scorer(
            clip=ClipEmbedder.load(clip, device) if clip else None,
            dino=DinoEmbedder.load(args.dino, device) if args.dino else None,
            judge=judge,
            threads=threads,
        )
    return Scorer(judge=judge, threads=threads)


def score(args) -> int:
    from ..evaluation.run import rescore
    from ..evaluation.run_folder import RunFolder

    folder = RunFolder(args.folder.resolve())
    rescore(folder, make_scorer(args, folder.load()["dataset"]["kind"]), note)
    return 0


def report(args) -> int:
    return _report(args.folder)


def _report(folder: Path) -> int:
    from ..evaluation.report import make

    print(make(folder))
    return 0
