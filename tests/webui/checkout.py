"""Which host the WebUI of these tests is, by the folders of its checkout, and what the tests expect of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

WEBUI = Path(os.environ.get("PERSRES_WEBUI") or "/nonexistent")
if (WEBUI / "ldm_patched").is_dir():
    HOST = "ldm_patched"
elif (WEBUI / "backend" / "diffusion_engine").is_dir():
    HOST = "backend"
else:
    HOST = "a1111"
A1111 = HOST == "a1111"
NEO = (WEBUI / "modules_forge" / "packages" / "huggingface_guess").is_dir()
"""Whether it is Forge Neo, whose command line is another."""
if A1111:
    FLAGS = ("--no-half", "--use-cpu", "all")
else:
    FLAGS = ("--cpu", "--force-fp32", "--fp32-vae", "--fp32-text-enc") if NEO else ("--always-cpu", "--all-in-fp32")
"""How it is told to compute on the CPU in fp32; Forge also, where its data are elsewhere, to serve its own scripts."""
OTHERWISE = os.environ.get("PERSRES_WEBUI_FLAGS")
"""What is said instead, such as nothing: then on a card, in the types that the host chooses."""
if OTHERWISE is not None:
    FLAGS = tuple(OTHERWISE.split())
ROUNDING = int(os.environ.get("PERSRES_WEBUI_ROUNDING") or 2)
"""Grey levels that pictures may differ by where nothing but the order of a sum does."""
arguments = WEBUI / "modules" / "cmd_args.py"
known = arguments.read_text() if arguments.exists() else ""
# which not all of them do, nor know
FLAGS += tuple(flag for flag in ("--no-download-sd-model", "--do-not-download-clip") if flag in known)
if HOST == "backend":
    FLAGS += ("--gradio-allowed-path", str(WEBUI))
# Forge Classic has no guidance in the first step where this is 0
SETTINGS = {"live_previews_enable": False, "skip_early_cond": -1}
"""Previews want a small model from the network."""
ITS_OWN = {} if A1111 else {"hr_cfg": 6}
"""What a request has to say so that its passes are as A1111's: else a hires pass has no unconditional row, or fails."""
if HOST == "backend":
    ITS_OWN["hr_additional_modules"] = ["Use same choices"]
INSTEAD = {"hr_upscaler": {"Latent": "None", "Lanczos": "None"}} if NEO else {}
"""What requests ask for that it has not, and what it is asked for."""
if NEO:
    SETTINGS["CLIP_stop_at_last_layers"] = 1  # as elsewhere
    # else it asks at the console whether its data are of an older version
    version = re.search(r'VERSION_UID.*= "(\w+)"', (WEBUI / "modules" / "launch_utils.py").read_text())
    SETTINGS |= {"VERSION_UID": version[1]} if version else {}
SPARING = ("--medvram",) if '"--medvram"' in known else ()
EXTENSIONS = {"probe": Path(__file__).parent / "probe", "known": Path(__file__).parent / "known"}
"""Those for the tests alone: what looks inside, and what lets a host know models as small as these."""
BACKTRACKS = HOST != "backend"
"""Whether it heeds the setting of how far a comma is looked for at a chunk's end; Forge looks 20 tokens back."""


def needs_flags_for_little_memory() -> None:
    """Of AUTOMATIC1111's."""
    if not A1111:
        pytest.skip("This host ignores --medvram and --lowvram; its own flags for little memory exclude the CPU.")
