"""For the tests alone: hosts with ldm_patched know SD2 and SDXL by the sizes of their own models, too, and so not the
Toybox in their formats."""

import json
import tempfile

import torch
from persres_toybox_sizes import HEADS, SCALE, is_toybox, text_heads

try:
    from ldm_patched.modules import model_detection, sd1_clip, supported_models, supported_models_base
except ImportError:  # another host
    model_detection = None


def text_config(state: dict, prefix: str) -> dict:
    """Of the text encoder whose tensors' names begin so, CLIP's or OpenCLIP's."""
    ends = "mlp.fc1.weight", "mlp.c_fc.weight"
    layers = [tensor for name, tensor in state.items() if name.startswith(prefix) and name.endswith(ends)]
    wide, width = layers[0].shape
    projection = state.get(prefix + "model.text_projection")
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": 49408,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-05,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 1,
        "hidden_size": width,
        "intermediate_size": wide,
        "num_hidden_layers": len(layers),
        "num_attention_heads": text_heads(width),
        "projection_dim": width if projection is None else projection.shape[1],
    }


def tell() -> None:
    class Text(sd1_clip.SDClipModel):
        """Which of its layers is heard says the yaml."""

        def __init__(self, config: dict, **kwargs):
            # from a file, as one of the hosts takes it alone
            with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
                json.dump(config, file)
            super().__init__(textmodel_json_config=file.name, layer="last", **kwargs)
            sizes = config["hidden_size"], config["projection_dim"]
            self.text_projection = torch.nn.Parameter(torch.empty(sizes), requires_grad=False)

    class Texts(torch.nn.Module):
        def __init__(self, configs: dict[str, dict], dtype=None, **kwargs):
            super().__init__()
            self.dtypes = {dtype} - {None}
            for name, config in configs.items():
                setattr(self, name, Text(config, dtype=dtype, **kwargs))

    class Toybox:
        family = ""
        prefixes: dict[str, str] = {}
        unet_extra_config = {"num_heads": HEADS, "num_head_channels": -1}

        @classmethod
        def matches(cls, unet_config, state_dict=None):
            return is_toybox(cls.family, unet_config)

        def __init__(self, unet_config):
            super().__init__(unet_config)
            self.latent_format.scale_factor = SCALE

        def read(self, state: dict) -> None:
            self.texts = {name: text_config(state, prefix) for name, prefix in self.prefixes.items()}

        def clip_target(self, **kwargs):
            own = super().clip_target(**kwargs)
            return supported_models_base.ClipTarget(own.tokenizer, lambda **options: Texts(self.texts, **options))

    class SD2(Toybox, supported_models.SD20):
        family, prefixes = "SD2", {"clip_h": "cond_stage_model."}

    class SDXL(Toybox, supported_models.SDXL):
        family, prefixes = "SDXL", {"clip_l": "conditioner.embedders.0.", "clip_g": "conditioner.embedders.1."}

    class Refiner(Toybox, supported_models.SDXLRefiner):
        family, prefixes = "refiner", {"clip_g": "conditioner.embedders.0."}

    supported_models.models += [SD2, SDXL, Refiner]
    detect = model_detection.model_config_from_unet

    def detected(state, *args, **kwargs):
        config = detect(state, *args, **kwargs)
        if isinstance(config, Toybox):
            config.read(state)
        return config

    model_detection.model_config_from_unet = detected


if model_detection is not None:
    tell()
