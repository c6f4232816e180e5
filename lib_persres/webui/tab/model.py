"""What the training tab says of the loaded checkpoint; the training itself looks again when its turn comes."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ...residual import file_hash
from ...toybox import CHECKPOINT, is_converted
from ..host import HOST
from ..training.model import refuse_unsupported, side_of
from ..training.request import Request


class LoadedModel:
    def __init__(self) -> None:
        self._known: tuple[tuple, bool] | None = None

    def is_toybox(self) -> bool:
        info = HOST.to_train_on()
        if info is None:
            return False
        with contextlib.suppress(OSError):
            status = os.stat(info.filename)
            key = info.filename, status.st_size, status.st_mtime_ns
            if self._known is None or self._known[0] != key:
                # a file of another size is not read at all
                same = CHECKPOINT.is_file() and status.st_size == CHECKPOINT.stat().st_size
                same = same and file_hash(CHECKPOINT) == file_hash(info.filename)
                self._known = key, same or is_converted(Path(info.filename))
            return self._known[1]
        return False

    def resolution(self) -> int | None:
        """Of the pictures that it was trained on; None where no model is loaded yet."""
        try:
            return side_of(HOST.loaded_model())
        except AttributeError:  # no model, or one that training refuses
            return None

    def unet(self):
        """None where no model is loaded yet."""
        return HOST.loaded_unet()


def refuse_unfit(request: Request) -> None:
    """PersresError for a training that the chosen checkpoint could not follow; while another one is loaded, or none,
    the training says it itself when its turn comes."""
    model, chosen = HOST.loaded_model(), HOST.chosen_checkpoint()
    loaded = HOST.checkpoint(model)
    if loaded is not None and chosen is not None and loaded.filename == chosen.filename:
        refuse_unsupported(model)
        request.refuse_unfit(HOST.unet(model), side_of(model))
