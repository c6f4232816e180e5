"""What no tensor of the Toybox says in SD2's and SDXL's formats; the rest is read off them."""

import re
from pathlib import Path

TOYBOX = Path(__file__).resolve().parents[3] / "lib_persres" / "toybox" / "checkpoint" / "toybox.yaml"
SCALE = float(re.search(r"scale_factor: (\S+)", TOYBOX.read_text())[1])
"""Of its latents."""
HEADS = 4
"""Of its UNet."""
SECOND_WIDTH, SECOND_HEADS = 16, 2
"""Of SDXL's second text encoder."""
POOLED = 24
VECTORS = {"SD2": None, "SDXL": 6 * 256 + POOLED, "refiner": 5 * 256 + POOLED}
"""By which the families' UNets are told apart: how wide is what they are given beside the text."""


def is_toybox(family: str, unet: dict) -> bool:
    """unet: what the host read off a UNet's tensors."""
    known = unet.get("model_channels", 320) < 128 and unet.get("use_linear_in_transformer", False)
    return known and unet.get("adm_in_channels") == VECTORS[family]


def text_heads(width: int) -> int:
    return SECOND_HEADS if width == SECOND_WIDTH else HEADS
