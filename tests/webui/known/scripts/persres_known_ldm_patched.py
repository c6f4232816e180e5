"""For the tests alone: hosts with ldm_patched know models by the sizes of Stable Diffusion's own, and
so not the tests' small ones. Here they are told them, as the tensors have them."""

import inspect
import json
import re
import tempfile
from pathlib import Path

try:
    from ldm_patched.modules import (
        latent_formats,
        model_detection,
        sd,
        sd1_clip,
        supported_models,
        supported_models_base,
    )
except ImportError:  # another host
    latent_formats = None

HEADS = 4
TOYBOX = Path(__file__).resolve().parents[4] / "lib_persres" / "toybox" / "checkpoint" / "toybox.yaml"
SCALES = {64: float(re.search(r"scale_factor: (\S+)", TOYBOX.read_text())[1])}
"""Of the latents, by the width of the Toybox's UNet, which no tensor says."""
TEXT = dict(
    architectures=["CLIPTextModel"],
    model_type="clip_text_model",
    vocab_size=49408,
    max_position_embeddings=77,
    hidden_act="quick_gelu",
    layer_norm_eps=1e-05,
    bos_token_id=49406,
    eos_token_id=49407,
    pad_token_id=1,
    num_attention_heads=HEADS,
)


def text_config(state: dict) -> dict:
    """Of a checkpoint's CLIP."""
    names = [name for name in state if "text_model.encoder.layers." in name and name.endswith("mlp.fc1.weight")]
    wide, width = state[names[0]].shape
    return {**TEXT, "hidden_size": width, "projection_dim": width, "intermediate_size": wide} | {
        "num_hidden_layers": len(names)
    }


def vae_config(state: dict) -> dict:
    """Of a checkpoint's autoencoder, whose names begin with those of its parts."""
    first = state["encoder.conv_in.weight"].shape[0]
    levels = [name for name in state if name.startswith("decoder.up.") and name.endswith("block.0.conv1.weight")]
    widths = [state[name].shape[0] // first for name in sorted(levels)]
    # the decoder has one more than the encoder, which may have none
    blocks = sum(name.startswith("decoder.up.0.block.") and name.endswith("conv1.weight") for name in state) - 1
    sizes = dict(double_z=True, z_channels=4, resolution=128, in_channels=3, out_ch=3, attn_resolutions=[], dropout=0.0)
    return {**sizes, "ch": first, "ch_mult": widths, "num_res_blocks": blocks}


def tell() -> None:
    texts: list[dict] = []
    detect = model_detection.model_config_from_unet

    def detected(state, *args, **kwargs):
        if any("text_model.encoder.layers." in name for name in state):
            texts[:] = [text_config(state)]
        return detect(state, *args, **kwargs)

    model_detection.model_config_from_unet = detected

    class Small(supported_models.SD15):
        unet_extra_config = {"num_heads": HEADS, "num_head_channels": -1}

        @classmethod
        def matches(cls, unet_config, state_dict=None):
            own = {name: value for name, value in cls.unet_config.items() if not name.endswith(("_dim", "_channels"))}
            return unet_config["model_channels"] < 128 and own.items() <= unet_config.items()

        def __init__(self, unet_config):
            super().__init__(unet_config)
            self.latent_format.scale_factor = SCALES.get(unet_config["model_channels"], 0.18215)

        def clip_target(self, state_dict=None):
            # Forge Classic does not say the state, and both read the sizes from a file
            with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
                json.dump(texts[-1], file)
            pooled = {"return_projected_pooled": False}
            pooled = pooled if pooled.keys() <= inspect.signature(sd1_clip.SDClipModel).parameters.keys() else {}

            class One(sd1_clip.SDClipModel):
                def __init__(self, **kwargs):
                    super().__init__(textmodel_json_config=file.name, **pooled, **kwargs)

            class Text(sd1_clip.SD1ClipModel):
                def __init__(self, *args, **kwargs):
                    super().__init__(*args, clip_model=One, **kwargs)

            return supported_models_base.ClipTarget(sd1_clip.SD1Tokenizer, Text)

    supported_models.models.append(Small)
    kind, init = sd.AutoencoderKL, sd.VAE.__init__

    def known(self, *args, **kwargs):
        config = vae_config(kwargs["sd"] if "sd" in kwargs else args[0])
        sd.AutoencoderKL = kind if config["ch"] == 128 else lambda *a, ddconfig, **k: kind(*a, ddconfig=config, **k)
        try:
            init(self, *args, **kwargs)
        finally:
            sd.AutoencoderKL = kind

    sd.VAE.__init__ = known


if latent_formats is not None:
    tell()
