"""The command line: one file a command, each with `add_parser(commands)` and a function that runs it.

Nothing at the top of these files imports torch, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import PersresError
from . import evaluate, export, generate, inspect, toybox, train
from .common import Formatter, Parser

EPILOG = """\
a first tour, with the small Toybox model that comes along:
  python -m lib_persres toybox photos photos --class ball --skin halves-0
  python -m lib_persres train --images photos --name mine --class ball
  python -m lib_persres generate --prompt "<persres:mine> a photo of a V* ball in snow" --lag
  python -m lib_persres inspect residuals/mine.safetensors

`python -m lib_persres COMMAND --help` explains a command and its options.
"""
NAMES = {"clip": "--no-deps clip-anytorch", "ray": "ray"}
NAMES |= dict.fromkeys(
    ("adjustText", "jinja2", "matplotlib", "pandas", "pydantic", "scipy"), '"lib-persres[evaluation]"'
)


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m lib_persres",
        description="Teach Stable Diffusion your own things from a few photos, and draw them anywhere.",
        epilog=EPILOG,
        formatter_class=Formatter,
    )
    parser.add_argument("--version", action="version", version=f"lib_persres {__version__}")
    parser.set_defaults(run=None, parser=parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for module in (train, generate, inspect, export, evaluate, toybox):
        module.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit status: 0, 1 after an error, 2 for wrong options, 128 and its number after a signal."""
    for stream in (sys.stdout, sys.stderr):
        # a console that has no "→" or "×", and a name that is not UTF-8, show a question mark, and the command goes on
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
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
    except KeyboardInterrupt as stop:
        print("interrupted", file=sys.stderr)
        return getattr(stop, "status", 130)
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
        return _install(str(error.name).partition(".")[0])
    if isinstance(error, OSError) and error.strerror:
        return str(PersresError(f"{error.filename or 'A file'}: {error.strerror}."))
    if type(error).__name__ == "OutOfMemoryError":  # torch's own, which is not imported here
        return "The device's memory is full: lower --batch or the picture's size, or take --device cpu."
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "allocate memory" in str(error)):
        return "The memory is full: lower --batch or the pictures' size."
    if isinstance(error, RuntimeError) and "not implemented for" in str(error):
        return "The device cannot compute in these numbers: take --dtype fp32."
    return None


def _install(package: str) -> str:
    """How to get a package; the standalone host's are in two lists, see pyproject.toml."""
    if package == "ldm":
        return (
            "The package ldm is not installed: run pip install --no-deps stable-diffusion-sdkit, which is right only "
            "with --no-deps."
        )
    if package in NAMES:
        return f"The package {package} is not installed: run pip install {NAMES[package]}."
    return (
        f'The package {package} is not installed: run pip install "lib-persres[standalone]", and '
        "pip install --no-deps -r requirements-nodeps.txt."
    )
