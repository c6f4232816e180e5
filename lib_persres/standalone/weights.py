"""A checkpoint's tensors by name, and why in one sentence a file is not one."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from lib_persres.errors import PersresError

from . import likeness
from .open_clip import PROJECTION, as_clip, own_name
from .pickles import read_pickle
from .stored import Stored, read_header

SUFFIXES = {".safetensors", ".ckpt", ".pt", ".pth", ".bin"}

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."

TEXTS = {
    "SD1": {"": TEXT + "transformer."},
    "SD2": {"": TEXT + "model."},
    "SDXL": {"clip_l": "conditioner.embedders.0.transformer.", "clip_g": "conditioner.embedders.1.model."},
}
"""The text encoders' prefixes; those that end in "model." are OpenCLIP's."""
OTHERS = {5: "a depth", 8: "an instruct-pix2pix", 9: "an inpainting"}
"""By the channels that come in."""
ADVICE = "A model of other sizes than its family's own needs its yaml beside it, under the same name."


@contextlib.contextmanager
def opened(path) -> Iterator[dict[str, Stored]]:
    """The tensors of a safetensors file or of a pickle of nothing but weights, whatever the file is called.

    They can be read within the context.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        try:
            if path.is_dir():
                raise PersresError(f"{path} is {likeness.of_folder(path)}.")
            if not path.exists():
                raise PersresError(f"{path} does not exist: give the path of a Stable Diffusion checkpoint.")
            if not path.is_file():  # reading a pipe would wait for ever
                raise PersresError(f"{path} is not a file: give the path of a Stable Diffusion checkpoint.")
            tensors = _tensors(stack.enter_context(open(path, "rb")), path)
        except PersresError:
            raise
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise PersresError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
        yield tensors


def _tensors(file, path: Path) -> dict[str, Stored]:
    start = file.read(32)
    # A header's length may begin with the bytes of a pickle; no pickle has a brace there.
    if start[8:9] != b"{":
        if kind := likeness.of_start(start):
            raise PersresError(f"{path} is {kind}: {likeness.WANTED}.")
        if start.startswith((b"PK", b"\x80")):
            return _of_pickle(path)
    if path.suffix.lower() not in SUFFIXES:
        raise PersresError(f"{path} is not a checkpoint: its name must end in .safetensors or .ckpt.")
    if path.suffix.lower() != ".safetensors" and start[8:9] != b"{":
        raise PersresError(f"{path} is neither a pickle nor a safetensors file, or it is damaged: download it again.")
    tensors, metadata = read_header(file, path)
    _refuse(likeness.of_tensors(tensors, metadata), path)
    return tensors


def _of_pickle(path: Path) -> dict[str, Stored]:
    if path.suffix.lower() == ".safetensors":
        raise PersresError(f"{path} is a pickle under a safetensors name: rename it to .ckpt if you trust its source.")
    tensors, content = read_pickle(path)
    _refuse(likeness.of_content(content) or likeness.of_tensors(tensors, {}), path)
    return tensors


def _refuse(kind: str | None, path: Path) -> None:
    if kind is not None:
        raise PersresError(f"{path} is {kind}: {likeness.WANTED}.")


def split(state: dict[str, Stored], path, family: str = "SD1") -> tuple[dict, dict, dict[str, dict]]:
    """The tensors of the UNet, the autoencoder and each text encoder of a checkpoint, prefixes removed.

    Text names come back as `transformer.text_model.…`, also from the oldest files (`transformer.…`) and OpenCLIP's; the
    encoders by the names of `residual.ENCODERS`.
    """
    unet = _part(state, UNET, "UNet", path, family)
    first = unet.get("input_blocks.0.0.weight")
    channels = first.shape[1] if first is not None and len(first.shape) == 4 else 4
    if channels in OTHERS:
        raise PersresError(
            f"{path} is {OTHERS[channels]} checkpoint ({channels} channels in): use a plain SD1, SD2 or SDXL model."
        )
    vae = _part(state, VAE, "autoencoder", path, family)
    # Training leftovers of some files, which no model here has.
    vae = {name: t for name, t in vae.items() if not name.startswith(("loss.", "model_ema."))}
    texts = {}
    for encoder, prefix in TEXTS[family].items():
        text = _part(state, prefix, "text encoder", path, family)
        if not prefix.endswith(".model."):
            texts[encoder] = _clip(text)
            continue
        texts[encoder] = as_clip(text)
        if family == "SD2":
            texts[encoder].pop(PROJECTION, None)  # which is for what SD2 does not ask
    return unet, vae, texts


def name_of_text(family: str, encoder: str, name: str) -> str:
    """What a checkpoint calls a part of an encoder, `transformer.text_model.…`."""
    prefix = TEXTS[family][encoder]
    if prefix.endswith(".model."):
        return prefix + own_name(name)
    return prefix + name.removeprefix("transformer.")


def _part(state: dict[str, Stored], prefix: str, what: str, path, family: str) -> dict[str, Stored]:
    part = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    if not part:
        raise PersresError(f"{path} is not an {family} checkpoint: it has no {what} ({prefix}*).")
    return part


def _clip(text: dict[str, Stored]) -> dict[str, Stored]:
    text = {name.removeprefix("text_model."): t for name, t in text.items()}
    known = ("embeddings.", "encoder.", "final_layer_norm.")
    return {
        "transformer.text_model." + name: t
        for name, t in text.items()
        if name.startswith(known) and not name.endswith("position_ids")
    }


Name = Callable[[str], str]
"""A part's name -> the file's."""


def within(prefix: str) -> Name:
    return lambda name: prefix + name


def check(found: dict[str, Stored], expected: dict, named: Name, path) -> None:
    """Raise the first difference in names, shapes or kinds of numbers between a file's tensors and a model's."""
    problem = _difference(found, expected, named)
    if problem:
        raise PersresError(f"{path} does not fit its architecture: {problem}. {ADVICE}")


def _difference(found, expected, named: Name) -> str | None:
    for name, tensor in expected.items():
        if name not in found:
            return f"{named(name)} is missing"
        if tuple(found[name].shape) != tuple(tensor.shape):
            return f"{named(name)} is {tuple(found[name].shape)} where {tuple(tensor.shape)} is expected"
        if found[name].dtype is None or not found[name].dtype.is_floating_point:
            return f"{named(name)} is not stored in floating point"
    extra = next((name for name in found if name not in expected), None)
    return extra and f"{named(extra)} has no place in it"
