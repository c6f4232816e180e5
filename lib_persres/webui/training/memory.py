"""How much memory the process uses, and of which kind."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def in_use(device: torch.device) -> dict | None:
    """{"kind", "bytes"}: on a card what torch holds of it, else the process's resident set; None: it cannot be told."""
    if device.type == "cuda":
        return {"kind": "VRAM", "bytes": torch.cuda.memory_reserved(device)}
    count = _resident()
    return {"kind": "RAM", "bytes": count} if count else None


def _resident() -> int | None:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except Exception:  # no Linux
        pass
    try:
        import psutil

        return psutil.Process().memory_info().rss
    except Exception:  # a figure for the eye must not cost the training
        return None
