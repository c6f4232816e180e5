"""What a training's saved state says of the training, without its tensors being read."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import PersresError, first_line
from ..metadata import Metadata


def read_facts(path: Path) -> Metadata:
    """Raises PersresError where the file is no state."""
    try:
        # mapped, so that a state of gigabytes is not read twice
        state = torch.serialization.load(str(path), map_location="cpu", weights_only=True, mmap=True)
        return Metadata.from_strings(state["facts"])
    except Exception as error:  # what torch raises on a damaged file is of no one family
        raise PersresError(f"{path} cannot be continued: {reason(error)}.") from error


def reason(error: Exception) -> str:
    """Ours as it is; others' words on a damaged file would tell nobody anything."""
    return first_line(error) if isinstance(error, (PersresError, OSError)) else "it is damaged, or no training's state"
