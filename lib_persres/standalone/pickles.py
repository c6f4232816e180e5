"""The tensors of a checkpoint in torch's own format (.ckpt), which is a pickle: nothing in it is ever run."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path

import torch

from lib_persres.errors import PersresError

from .stored import Stored

LARGEST_PICKLE = 32 << 20
"""Bytes of the pickle inside, without the tensors; that of an SD1 checkpoint has 0.2 million."""


def read_pickle(path: Path) -> tuple[dict[str, Stored], object]:
    """The tensors by name, and all that the file holds."""
    if zipfile.is_zipfile(path):
        _check_zip(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how it was written, which nobody can change
            # not torch.load, which the WebUI replaces
            content = torch.serialization.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "nsupported" not in str(error):
            raise PersresError(f"{path} is damaged or truncated: download it again.") from error
        raise PersresError(
            f"{path} is refused, since it is not a pickle of weights alone and could run code: "
            "use the model's .safetensors file."
        ) from error
    except Exception as error:  # what torch and its two readers raise on a damaged file is of no one family
        raise PersresError(f"{path} is damaged or truncated: download it again.") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise PersresError(f"{path} is not a checkpoint: it holds no named tensors.")
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor) and type(name) is str}
    for name, tensor in tensors.items():
        if not _is_plain(tensor):
            raise PersresError(f"{path}: {name} is no plain tensor, but sparse, quantized or without its numbers.")
    # a few bytes can be made to look like any number of large tensors
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > 2 * path.stat().st_size:
        raise PersresError(f"{path} is refused: its tensors would be larger than the file.")
    return {name: Stored(tuple(tensor.shape), tensor.dtype, tensor.clone) for name, tensor in tensors.items()}, content


def _check_zip(path: Path) -> None:
    """Nothing in the archive may become larger than it is in the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # zipfile's on a damaged archive are of no one family, either
        raise PersresError(f"{path} is damaged or truncated: download it again.") from error
    if not any(entry.filename.endswith("data.pkl") for entry in entries):
        raise PersresError(f"{path} is a zip archive without a model: unpack it and give the checkpoint inside.")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise PersresError(f"{path} is refused: it is a compressed archive, which no checkpoint is.")
    if any(entry.filename.endswith(".pkl") and entry.file_size > LARGEST_PICKLE for entry in entries):
        raise PersresError(f"{path} is refused: the list of its tensors is larger than any model's.")


def _is_plain(tensor: torch.Tensor) -> bool:
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_nested:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
