"""The command line: one file a command, each with `add_parser(commands)` and a function that runs it.

Nothing at the top of these files imports torch, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import PersresError
from . import evaluate, generate, inspect, toybox, train
from .common import Formatter

EPILOG = """\
a first tour, with the small Toybox model that comes along:
  python -m lib_persres toybox photos photos --class ball --skin halves-0
  python -m lib_persres train --images photos --name mine --class ball
  python -m lib_persres generate --prompt "<persres:mine> a photo of a V* ball in snow" --lag
  python -m lib_persres inspect residuals/mine.safetensors

`python -m lib_persres COMMAND --help` explains a command and its options.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lib_persres",
        description="Teach Stable Diffusion your own things from a few photos, and draw them anywhere.",
        epilog=EPILOG,
        formatter_class=Formatter,
    )
    parser.add_argument("--version", action="version", version=f"lib_persres {__version__}")
    parser.set_defaults(run=None, parser=parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for module in (train, generate, inspect, evaluate, toybox):
        module.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit status: 0, 1 after an error, 2 for wrong options, 130 after Ctrl-C."""
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed the help, or what is wrong
        return stop.code if isinstance(stop.code, int) else 0
    if args.run is None:
        args.parser.print_help(sys.stderr)
        return 2
    try:
        status = args.run(args) or 0
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `inspect … | head`: nobody reads on, which is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 1


def _sentence(error: Exception) -> str | None:
    """What the user can act on, or None for a fault of ours, which deserves its traceback."""
    if isinstance(error, PersresError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("lib_persres"):
        return f'The package {error.name} is not installed: run pip install "lib-persres[standalone]".'
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'A file'}: {error.strerror}."
    if type(error).__name__ == "OutOfMemoryError":  # torch's own, which is not imported here
        return "The device's memory is full: lower --batch or the picture's size, or take --device cpu."
    return None
