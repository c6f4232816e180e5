"""`inspect`: what a residual's file says about itself, and what the recipes take."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from ..errors import PersresError
from .common import Formatter, printable, size_text

DESCRIPTION = """\
Show what residual files hold: their concept, how it was learned, and whether the files are sound.

A file that is no residual, is damaged or holds impossible numbers is named with the reason, and the
command ends with status 1.
"""
EPILOG = """\
examples:
  python -m lib_persres inspect residuals/mine.safetensors
  python -m lib_persres inspect residuals/*.safetensors --json
  python -m lib_persres inspect --recipes
"""


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "inspect",
        help="show what a residual file holds",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=Formatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("files", nargs="*", metavar="FILE", help="residual files (.safetensors)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, for programs")
    parser.add_argument(
        "--recipes",
        action="store_true",
        help="what each recipe of training learns and takes on Stable Diffusion 1.x, as a table",
    )


def run(args) -> int:
    if args.recipes == bool(args.files):
        raise PersresError("Name residual files to inspect, or give --recipes and no file.")
    if args.recipes:
        from . import recipe_table

        print(recipe_table.as_json() if args.json else recipe_table.as_text())
        return 0
    status, shown = 0, 0
    for name in args.files:
        try:
            facts = describe(Path(name))
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
    ranks = ", ".join(
        f"{'/'.join(map(str, found))} at width {width}" for width, found in facts["ranks"].items()
    )
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
        ("recipe", _pairs(recipe)),
        *((f"stage {number}", _pairs(stage)) for number, stage in enumerate(stages, 1)),
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


def _pairs(values) -> str:
    if not isinstance(values, dict):
        return str(values)
    return ", ".join(f"{key} {value}" for key, value in values.items() if key != "about")


def _number(value) -> str:
    return f"{value:.4f}" if isinstance(value, (int, float)) else "?"


def _cut(text: str) -> str:
    """Texts of a file of any origin: a line, and nothing that steers the terminal."""
    return printable(text if len(text) <= 300 else text[:299] + "…")
