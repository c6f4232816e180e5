"""`inspect`: what a residual's file says about itself, and what the recipes take."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import MappingProxyType

from ..errors import PersresError
from ..names import SUFFIX
from ..training.recipe import Recipe, Stage
from .common import Formatter, file_name, printable, size_text

DESCRIPTION = """\
Show what residual files hold: their concept, how it was learned, and whether the files are sound.

A file that is no residual, is damaged or holds impossible numbers is named with the reason, and the
command ends with status 1.
"""
EPILOG = """\
examples:
  python -m lib_persres inspect mine
  python -m lib_persres inspect residuals/*.safetensors --json
  python -m lib_persres inspect --recipes
  python -m lib_persres inspect --options
"""
SHOWN = ("targets", "rank", "steps", "batch", "learning_rate")
"""Of a stage, whatever they are; the rest only where it is not as usual."""


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "inspect",
        help="show what a residual file holds",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=Formatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        type=file_name,
        help="residual files (.safetensors), or names as in a prompt's tags",
    )
    parser.add_argument(
        "--residuals",
        metavar="FOLDER",
        type=file_name,
        default="residuals",
        help="where names are looked for (default: residuals)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line, for programs")
    parser.add_argument(
        "--recipes",
        action="store_true",
        help="what each recipe of training learns and takes on SD1, as a table",
    )
    parser.add_argument(
        "--options", action="store_true", help="the options of a training and what they can be, as a table"
    )


def run(args) -> int:
    if bool(args.recipes) + bool(args.options) + bool(args.files) != 1:
        raise PersresError("Name residual files to inspect, or give --recipes or --options and no file.")
    if args.recipes or args.options:
        from . import option_table, recipe_table

        listed = recipe_table if args.recipes else option_table
        print(listed.as_json() if args.json else listed.as_text())
        return 0
    status, shown = 0, 0
    for name in args.files:
        try:
            facts = describe(_find(name, Path(args.residuals)))
        except PersresError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
            status = 1
            continue
        if args.json:
            print(json.dumps(facts))
        else:
            print(("\n" if shown else "") + table(facts))
        shown += 1
    return status


def _find(name: str, folder: Path) -> Path:
    """The file that is meant: a path, or else a name as in a tag. PersresError for what is something else."""
    from ..residual_folder import ResidualFolder

    path = Path(name)
    if os.path.isdir(path):
        found = sorted(file.name for file in path.glob(f"*{SUFFIX}"))
        if not found:
            raise PersresError(f"{path} is a folder without residuals: name a file, or a folder with --residuals.")
        raise PersresError(
            f"{path} is a folder with {len(found)} residual{'s' * (len(found) > 1)}: name files in it, such as "
            f"{path / found[0]}, or all as {path / f'*{SUFFIX}'}."
        )
    if path.suffix == ".pt" and os.path.isfile(path):
        _refuse_state(path)
    if os.path.lexists(path):
        return path
    advice = "give a file's path, or another folder with --residuals"
    return ResidualFolder(lambda: folder, anywhere=True, advice=advice).find(name).path


def _refuse_state(path: Path) -> None:
    """PersresError that says of what training this is the state; nothing where it is none."""
    from ..training.state import read_facts

    try:
        facts = read_facts(path)
    except PersresError:
        return
    raise PersresError(
        f'{path} is the state of the unfinished training of "{facts.concept}" ({facts.macro_class}), not a residual: '
        "give the training's command again with --resume, which goes on from it."
    )


def describe(path: Path) -> dict:
    """A residual's metadata and measures as plain data. Raises PersresError for a file that is not sound."""
    from ..residual import Residual, file_hash
    from ..residual_listing import shown

    residual = Residual.load(path)
    metadata = asdict(residual.metadata)
    metadata["preview"] = metadata["preview"] is not None
    ranks: dict[int, set[int]] = {}
    for factors in residual.factors.values():
        ranks.setdefault(factors.up.shape[0], set()).add(factors.rank)
    return {
        "file": shown(str(path)),
        "sha256": file_hash(path),
        "size": path.stat().st_size,
        "parameters": residual.parameters_count(),
        "modules": len(residual.factors),
        "ranks": {str(width): sorted(ranks[width]) for width in sorted(ranks)},
        "embeddings": sorted(residual.embeddings),
        **metadata,
    }


def table(facts: dict) -> str:
    """The facts for a reader; whatever is not known is left out."""
    loss, recipe = facts["loss"], dict(facts["recipe"])
    ranks = ", ".join(f"{'/'.join(map(str, found))} at width {width}" for width, found in facts["ranks"].items())
    stages = recipe.pop("stages", None)
    stages = stages if isinstance(stages, list) else []
    images = [item[:10] for item in facts["image_hashes"]]
    rows = [
        ("concept", facts["concept"]),
        ("identifier", facts["identifier"]),
        ("class", facts["macro_class"]),
        ("base model", f"{facts['base_family']} {facts['base_hash'][:10]}"),
        ("targets", f"{facts['targets']}, {facts['modules']} modules"),
        ("ranks", f"{ranks} (rule {facts['rank']})"),
        ("parameters", f"{facts['parameters']:,}"),
        ("embeddings", ", ".join(facts["embeddings"])),
        ("size", size_text(facts["size"])),
        ("recipe", _pairs(recipe, _usual(Recipe, ("template", "crops", "resolution")))),
        *((f"stage {number}", _pairs(stage, _usual(Stage, SHOWN))) for number, stage in enumerate(stages, 1)),
        ("steps", f"{facts['steps']} done"),
        ("loss", f"{_number(loss.get('first'))} → {_number(loss.get('last'))}" if loss else ""),
        ("seed", facts["seed"]),
        ("images", f"{len(images)} ({' '.join(images)})" if images else "not told"),
        ("file hash", facts["sha256"][:10]),
        ("created", f"{facts['created']} by version {facts['library_version']}" if facts["created"] else ""),
        ("besides", ", ".join(facts["extra"])),
    ]
    lines = [f"  {label:<12}{_cut(str(value))}" for label, value in rows if value not in (None, "")]
    return "\n".join([printable(facts["file"]), *lines])


def _pairs(values, usual: Mapping = MappingProxyType({})) -> str:
    """The values, without those that are as usual."""
    if not isinstance(values, dict):
        return str(values)
    left_out = [key for key in values if key == "about" or (key in usual and values[key] == usual[key])]
    return ", ".join(f"{key} {value}" for key, value in values.items() if key not in left_out)


def _usual(cls: type, shown: tuple[str, ...]) -> dict:
    """The defaults of a recipe's class, but for what is always shown."""
    return {item.name: item.default for item in fields(cls) if item.name not in shown}


def _number(value) -> str:
    return f"{value:.4f}" if isinstance(value, (int, float)) else "?"


def _cut(text: str) -> str:
    """Texts of a file of any origin: a line, and nothing that steers the terminal."""
    return printable(text if len(text) <= 300 else text[:299] + "…")
