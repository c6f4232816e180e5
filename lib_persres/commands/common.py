"""What the commands share: their help's layout, types of arguments, loading a model, writing a folder."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..errors import PersresError, readable
from ..names import SUFFIX, refuse_controls
from ..sizes import check_pixels, check_side  # noqa: F401 the commands take them from here
from ..toybox import is_converted
from ..training.pictures.kinds import SUFFIXES as PICTURES

TOYBOX = "toybox"
"""The name that stands for the shipped checkpoint."""
TOYBOX_CHECKPOINT = Path(__file__).parent.parent / "toybox" / "checkpoint" / "toybox.safetensors"
WEIGHTS = (".ckpt", ".pt", ".pth", ".bin")
DTYPES = ("auto", "fp32", "fp16", "bf16")
MOST_SEEDS = 10_000
LONGEST_TEXT = 20_000
"""Characters of a prompt; 75 tokens have some hundreds."""


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the examples' lines, and gives the options' names room."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=28)


# -- types of arguments --------------------------------------------------------------------------------------


MOST = 1_000_000
"""Of a number whose largest sensible value nobody knows."""


class Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong, whatever was written."""

    def error(self, message: str):
        message = re.sub(r"\\ud[89a-f][0-9a-f]{2}", "�", message.rstrip("."))  # what repr makes of no UTF-8
        self.exit(2, f"error: {PersresError(f'{message[0].upper()}{message[1:]}: see {self.prog} --help.')}\n")


def at_least(low: float, most: float = MOST) -> Callable[[str], int]:
    def whole(given: str) -> int:
        try:
            number = int(given)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{given[:40]!r} is not a whole number") from None
        if not low <= number <= most:
            raise argparse.ArgumentTypeError(f"{given[:40]} is not a number from {low} to {most}")
        return number

    return whole


def finite(given: str) -> float:
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{given[:40]!r} is not a number")
    return number


def words(given: str) -> str:
    """Words for a model. Bytes that are not UTF-8 come as lone surrogates, which no tokenizer takes."""
    try:
        given.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{readable(given, 80)!r} is not in UTF-8, write it again") from None
    try:
        refuse_controls(given, "text")
    except PersresError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if len(given) > LONGEST_TEXT:
        raise argparse.ArgumentTypeError(f"{given[:40]!r}… has {len(given)} characters, at most {LONGEST_TEXT}")
    return given


def file_name(given: str) -> str:
    """A file's or a folder's name, in whatever encoding the disk has."""
    if not given.strip() or "\0" in given:
        raise argparse.ArgumentTypeError(f"{given[:40]!r} is no file or folder")
    return given


def seed(given: str) -> int:
    return at_least(0, 2**63 - 1)(given)


def seeds(given: str) -> list[int]:
    """ "7" -> [7]; "0-3" -> [0, 1, 2, 3]."""
    first, dash, last = given.strip().partition("-")
    if not dash:
        return [seed(first)]
    low, high = seed(first), seed(last)
    if not low <= high < low + MOST_SEEDS:
        raise argparse.ArgumentTypeError(f"{given[:40]!r} is not a range such as 0-7 of at most {MOST_SEEDS} seeds")
    return list(range(low, high + 1))


# -- the model -----------------------------------------------------------------------------------------------


def add_model_options(important, tinkering) -> None:
    important.add_argument(
        "--checkpoint",
        metavar="PATH",
        type=file_name,
        default=TOYBOX,
        help='an SD1, SD2 or SDXL checkpoint (.safetensors), or "toybox" (the default) for the small '
        "model that comes along",
    )
    tinkering.add_argument("--device", type=words, default="auto", help="auto (the default), cpu, cuda, cuda:1 or mps")
    tinkering.add_argument(
        "--dtype", choices=DTYPES, default="auto", help="the model's numbers; auto is fp16 on cuda, else fp32"
    )


def checkpoint_path(name: str) -> Path:
    """The file that --checkpoint names. Raises PersresError where it is not there."""
    if name == TOYBOX:
        if not TOYBOX_CHECKPOINT.is_file():
            raise PersresError(
                f"The Toybox checkpoint {TOYBOX_CHECKPOINT} is missing: give another with --checkpoint, "
                "or make it with `python -m lib_persres toybox train`."
            )
        return TOYBOX_CHECKPOINT
    found = Path(name)
    if found.is_dir():
        from ..standalone.likeness import of_folder

        raise PersresError(f"{found} is {of_folder(found)}.")
    if not found.is_file():
        raise PersresError(f"There is no checkpoint {found}: give the path of a .safetensors file.")
    return found


def is_toybox(path: Path) -> bool:
    return path.resolve() == TOYBOX_CHECKPOINT.resolve() or is_converted(path)


def load_model(path: Path, device: str, dtype: str):
    """The StableDiffusion of a file, on the device that the options name."""
    import torch

    from ..standalone.checkpoint import load

    chosen = None if device == "auto" else _device(device)
    types = {"auto": None, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    note(f"Loading {path}")
    return load(path, device=chosen, dtype=types[dtype])


def _device(name: str):
    import torch

    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except Exception as error:  # each kind of device has its own
        raise PersresError(f"The device {name[:40]!r} cannot be used here: try --device cpu.") from error
    if device.type == "meta":  # a device to torch, but one without memory
        raise PersresError(f"The device {name[:40]!r} cannot be used here: try --device cpu.")
    return device


# -- files ---------------------------------------------------------------------------------------------------


def is_files_name(path: Path) -> bool:
    """Whether nobody would call a folder so: it ends as a picture or a model does."""
    return path.suffix.lower() in (*PICTURES, SUFFIX, *WEIGHTS)


def make_folder(folder: Path) -> None:
    """Make a folder that can be written into, or raise PersresError: better now than after the work."""
    if is_files_name(folder) and not folder.is_dir():
        raise PersresError(f"{folder} is named as a file, and a folder is needed here: leave out {folder.suffix}.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".persres-", dir=folder)
        os.close(handle)
        os.unlink(name)
    except FileExistsError as error:
        raise PersresError(f"{folder} is a file where a folder is needed: give another.") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise PersresError(f"The folder {folder} cannot be written into ({reason}): give another.") from error


def refuse_existing(path: Path, force: bool) -> None:
    if path.is_dir():
        raise PersresError(f"{path} is a folder where a file is to be written: give another name.")
    if path.exists() and not force:
        raise PersresError(f"{path} already exists: give another name, or --force to replace it.")


# -- the terminal --------------------------------------------------------------------------------------------


def note(line: str) -> None:
    """A line beside the results, so on stderr."""
    print(readable(line, 2000), file=sys.stderr, flush=True)


def printable(line: str) -> str:
    """A file's text without what would steer the terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)


def size_text(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
