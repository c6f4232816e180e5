"""Training states of the base model: written whole or not at all, so that a killed training resumes."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def save_state(file: Path, step: int, model, optimizer, **more) -> None:
    temporary = file.with_suffix(".tmp")
    torch.save({"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict(), **more}, temporary)
    os.replace(temporary, file)


def load_state(file: Path, model, optimizer, **more) -> int:
    """Restore what `save_state` wrote; returns the steps done, 0 where there is no file."""
    if not file.exists():
        return 0
    state = torch.load(file, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    for name, target in more.items():
        target.load_state_dict(state[name])
    return state["step"]
