"""The Toybox: a small world with exact truth, and a small SD1-format model trained on it from scratch."""

from pathlib import Path

#: The shipped base model, with its sidecar yaml and its text encoder's config beside it.
CHECKPOINT = Path(__file__).parent / "checkpoint" / "toybox.safetensors"

CONVERTED = {"converted_from": "toybox"}
"""In the header of what `toybox convert` writes: the same model in another family's format."""


def is_converted(path: Path) -> bool:
    """Whether a file says so in its header, of which as much is read as could hold it."""
    try:
        with open(path, "rb") as file:
            start = file.read(1 << 12)
    except (OSError, ValueError):
        return False
    return b'"converted_from":"toybox"' in start.replace(b'": "', b'":"')
