"""`python dev.py demo`: learn a concept that the base model has never seen, draw it three ways, show and score it.

It is the suite "toybox-demo" of `evaluate run`: everything is drawn from the same noise for the base model, plain
sampling and LAG, and the report has the photos, the pictures, LAG's masks, the loss and the scores on one page.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from ..errors import PersresError
from ..evaluation.planning import Source
from ..evaluation.report import make
from ..evaluation.report.results import Results
from ..evaluation.run import perform
from ..evaluation.run_folder import RunFolder
from ..evaluation.suite import Suite
from ..evaluation.workers import run_here
from ..progress import Bar, progress_bar
from ..toybox import CHECKPOINT
from ..toybox.concepts import CONCEPTS
from .common import make_folder, note
from .evaluate import make_scorer

SUITE = "toybox-demo"
SHOWN = ("identity", "obeyed", "class", "background", "background_distance")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="dev.py demo", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for the results")
    parser.add_argument("--concept", choices=[c.name for c in CONCEPTS], default="rex", help="which concept to learn")
    parser.add_argument("--per-prompt", type=int, default=2, help="pictures of each prompt and method")
    options = parser.parse_args(argv)
    try:
        return _demo(options)
    except PersresError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _demo(options: argparse.Namespace) -> int:
    raw = Suite.read(SUITE).to_dict()
    raw["concepts"]["names"], raw["sampling"]["images"] = [options.concept], options.per_prompt
    suite, run = Suite.from_dict(raw, "The demo"), RunFolder(options.out.resolve())
    make_folder(options.out)
    with contextlib.ExitStack() as stack:
        bars: list[Bar] = []

        def progress(done: int, total: int, loss: float) -> None:
            if not bars:  # as late as this, since it also tells how long the rest will take
                bars.append(stack.enter_context(progress_bar(total, "steps", "training")))
            bars[0].set_postfix_str(f"loss {loss:.4f}", refresh=False)
            bars[0].update()
            if done == total:
                stack.close()

        perform(
            run,
            suite,
            Source("toybox", run.root / "photos"),
            CHECKPOINT,
            lambda pieces, report: run_here(pieces, report, progress),
            scorer=make_scorer(argparse.Namespace(clip=None, dino=None), "toybox"),
            command=f"python dev.py demo --concept {options.concept} --per-prompt {options.per_prompt}",
            device="cpu",
            told=note,
        )
    page = make(run.root) / "report.html"
    results = Results.read(run)
    columns = results.columns(SHOWN)
    print(results.rows.groupby("method", sort=False)[[c.name for c in columns]].mean().round(3).to_string())
    print("\n".join(f"{c.label}: {c.meaning}" for c in columns))
    print(f"Open {options.out / page.relative_to(run.root)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
