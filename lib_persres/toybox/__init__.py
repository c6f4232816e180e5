"""The Toybox: a small world with exact truth, and a small SD1-format model trained on it from scratch."""

from pathlib import Path

#: The shipped base model, with its sidecar yaml and its text encoder's config beside it.
CHECKPOINT = Path(__file__).parent / "checkpoint" / "toybox.safetensors"
