"""`export`: a residual as a LoRA for other programs."""

from __future__ import annotations

from pathlib import Path

from ..errors import PersresError
from ..names import SUFFIX
from .common import Formatter, file_name, note

DESCRIPTION = """\
Write a residual as a LoRA file, which the WebUI's own <lora:...>, ComfyUI and diffusers can read.

It draws what the residual draws plainly, everywhere in the picture: those programs know nothing of LAG. Its
trigger is the concept's identifier and class, "olis dog", since they do not know V* either.
"""
EPILOG = """\
examples:
  python -m lib_persres export mine
  python -m lib_persres export residuals/mine.safetensors --to diffusers --out exported
"""


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "export",
        help="write a residual as a LoRA for other programs",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=Formatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "file", metavar="FILE", type=file_name, help="a residual's file, or its name in a prompt's tags"
    )
    parser.add_argument(
        "--to",
        choices=("lora", "diffusers"),
        default="lora",
        help="kohya's names, which most programs read, or diffusers' (default: lora)",
    )
    parser.add_argument(
        "--residuals",
        metavar="FOLDER",
        type=file_name,
        default="residuals",
        help="where names are looked for (default: residuals)",
    )
    parser.add_argument(
        "--out", metavar="FOLDER", type=file_name, default="loras", help="where the file goes (default: loras)"
    )


def run(args) -> int:
    from ..lora.adapter import Adapter, reader
    from ..lora.write import save_lora
    from ..residual_folder import ResidualFolder

    loaded = ResidualFolder(lambda: Path(args.residuals), anywhere=True, reader=reader()).load(args.file)
    if isinstance(loaded.residual, Adapter):
        raise PersresError(f"{loaded.entry.path} is a LoRA already.")
    path = Path(args.out) / f"{loaded.entry.path.name.removesuffix(SUFFIX)}{SUFFIX}"
    for sentence in save_lora(loaded.residual, path, args.to):
        note(f"warning: {sentence}")
    facts = loaded.residual.metadata
    print(path)
    note(f'In its prompts "{facts.identifier} {facts.macro_class}" stands where V* and its class stood.')
    return 0
