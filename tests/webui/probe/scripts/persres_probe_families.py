"""The sizes of the small text encoders beside the test's checkpoints, told to OpenCLIP, which knows models by name."""

from pathlib import Path

import open_clip
from modules import paths

for config in Path(paths.models_path).glob("Stable-diffusion/*_text_encoder/*.json"):
    if '"text_cfg"' in config.read_text():
        open_clip.add_model_config(config)
