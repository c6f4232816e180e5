"""`toybox convert`: the Toybox's model in SD2's or SDXL's format."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from ..errors import PersresError
from ..toybox import CHECKPOINT, CONVERTED
from ..writing import write_whole
from .common import file_name, make_folder, refuse_existing

FAMILIES = ("SD2", "SDXL")
NOTE = """\
The Toybox's model in SD2's or SDXL's format, by exact conversion: it draws the same pictures,
but for SDXL where no negative prompt is written, of which that family hears zeros. Beside FILE come its
yaml and a folder with what reading it needs: the vocabulary and the sizes of its text encoders.
"""


def _family(given: str) -> str:
    return next((family for family in FAMILIES if family.casefold() == given.casefold()), given)


def add_convert(action) -> None:
    """action(name, run, help, description) -> the parser of a new action."""
    parser = action("convert", convert, "write the Toybox model in SD2's or SDXL's format", NOTE)
    parser.add_argument("--family", type=_family, choices=FAMILIES, required=True, help="whose format")
    parser.add_argument(
        "--out", type=file_name, metavar="FILE", required=True, help="the checkpoint to write, a .safetensors file"
    )
    parser.add_argument("--force", action="store_true", help="replace files that are there")


def convert(args) -> int:
    out = Path(args.out)
    if out.suffix != ".safetensors":
        raise PersresError(f"{out} is written as safetensors: give a name that ends in .safetensors.")
    sidecar, folder = out.with_suffix(".yaml"), out.with_name(out.stem + "_text_encoder")
    for path in (out, sidecar):
        refuse_existing(path, args.force)
    if not CHECKPOINT.is_file():
        raise PersresError(
            f"The Toybox checkpoint {CHECKPOINT} is missing: make it with `python -m lib_persres toybox train`."
        )
    make_folder(out.parent)
    make_folder(folder)

    import yaml
    from safetensors.torch import save

    from ..standalone import weights
    from ..standalone.tokenizer import Tokenizer
    from ..toybox.formats import converted, open_clip_configs

    description = yaml.safe_load(CHECKPOINT.with_suffix(".yaml").read_text(encoding="utf-8"))
    text = description["model"]["params"]["cond_stage_config"]["params"]
    source = CHECKPOINT.parent / text["version"]
    text["version"] = folder.name
    with weights.opened(CHECKPOINT) as stored:
        state = {name: tensor.read() for name, tensor in stored.items()}
    state, description = converted(state, description, args.family)

    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    sizes = {"config": config, **open_clip_configs(config, args.family)}
    files = {f"{name}.json": (json.dumps(content, indent=2) + "\n").encode() for name, content in sizes.items()}
    with tempfile.TemporaryDirectory() as made:
        Tokenizer.find(source).write_vocabulary(made)
        files |= {path.name: path.read_bytes() for path in Path(made).iterdir()}
    for name, data in files.items():
        write_whole(folder / name, data)
    write_whole(sidecar, yaml.safe_dump(description, sort_keys=False).encode())
    write_whole(out, save(state, metadata={"format": "pt", **CONVERTED}))
    print(f"{out}, with {sidecar.name} and {folder.name} beside it, which belong to it")
    return 0
