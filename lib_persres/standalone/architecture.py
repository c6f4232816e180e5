"""The sizes of an SD1 model: from the yaml beside its file, else the standard ones."""

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from lib_persres.errors import PersresError

SD1_UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 4, 4],
    "num_heads": 8,
    "use_spatial_transformer": True,
    "transformer_depth": 1,
    "context_dim": 768,
    "legacy": False,
}
SD1_DDCONFIG = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}


@dataclass
class Architecture:
    """What a v1-inference.yaml says. `text_folder` is the folder that its text encoder names, if there."""

    unet: dict = field(default_factory=lambda: copy.deepcopy(SD1_UNET))
    ddconfig: dict = field(default_factory=lambda: copy.deepcopy(SD1_DDCONFIG))
    embed_dim: int = 4
    scale_factor: float = 0.18215
    linear_start: float = 0.00085
    linear_end: float = 0.012
    timesteps: int = 1000
    text_folder: Path | None = None


def read(checkpoint) -> Architecture:
    """The architecture in `<name>.yaml` beside the checkpoint, else SD1's."""
    path = Path(checkpoint).with_suffix(".yaml")
    if not path.is_file():
        return Architecture()
    try:
        params = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["params"]
        standard = Architecture()
        if params.get("parameterization", "eps") != "eps":
            raise PersresError(
                f"{path} describes a model that predicts {params['parameterization']}; SD1.x predicts eps."
            )
        first_stage = params["first_stage_config"]["params"]
        text = (params.get("cond_stage_config") or {}).get("params") or {}
        folder = path.parent / str(text.get("version") or "")
        return Architecture(
            unet=dict(params["unet_config"]["params"]),
            ddconfig=dict(first_stage["ddconfig"]),
            embed_dim=int(first_stage["embed_dim"]),
            scale_factor=float(params.get("scale_factor", 1.0)),
            linear_start=float(params.get("linear_start", standard.linear_start)),
            linear_end=float(params.get("linear_end", standard.linear_end)),
            timesteps=int(params.get("timesteps", standard.timesteps)),
            text_folder=folder if text.get("version") and (folder / "config.json").is_file() else None,
        )
    except PersresError:
        raise
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise PersresError(f"{path} is not like Stable Diffusion's v1-inference.yaml: {reason}.") from error


def text_config(text: dict, folder: Path | None, checkpoint) -> dict:
    """The text encoder's config.json, else its sizes as its tensors tell (`transformer.text_model.…`)."""
    if folder is not None:
        try:
            return json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PersresError(f"{folder / 'config.json'} cannot be read: {error}.") from error
    prefix = "transformer.text_model."
    try:
        vocabulary, hidden = text[prefix + "embeddings.token_embedding.weight"].shape
        positions = text[prefix + "embeddings.position_embedding.weight"].shape[0]
        intermediate = text[prefix + "encoder.layers.0.mlp.fc1.weight"].shape[0]
    except (LookupError, ValueError) as error:
        raise PersresError(f"{checkpoint} is no SD1 checkpoint: its text encoder is not CLIP's.") from error
    layers = {name.removeprefix(prefix).split(".")[2] for name in text if ".encoder.layers." in name}
    if hidden % 64:
        raise PersresError(
            f"{checkpoint}: the number of attention heads of a text encoder {hidden} wide cannot be told; "
            "let the yaml beside it name a folder with the encoder's config.json."
        )
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": len(layers),
        "num_attention_heads": hidden // 64,  # CLIP's heads are 64 wide in every size of its text encoder
        "max_position_embeddings": positions,
    }


def write(checkpoint, architecture: Architecture, text_folder: str) -> None:
    """Write `<name>.yaml` beside the checkpoint in the format of v1-inference.yaml.

    text_folder: the text encoder's folder, relative to the yaml's.
    """
    config = {
        "model": {
            "base_learning_rate": 1.0e-4,
            "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
            "params": {
                "linear_start": architecture.linear_start,
                "linear_end": architecture.linear_end,
                "num_timesteps_cond": 1,
                "log_every_t": 200,
                "timesteps": architecture.timesteps,
                "first_stage_key": "jpg",
                "cond_stage_key": "txt",
                "image_size": architecture.unet.get("image_size", 32),
                "channels": architecture.embed_dim,
                "cond_stage_trainable": False,
                "conditioning_key": "crossattn",
                "monitor": "val/loss_simple_ema",
                "scale_factor": architecture.scale_factor,
                "use_ema": False,
                "unet_config": {
                    "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
                    "params": {"legacy": False, **architecture.unet},
                },
                "first_stage_config": {
                    "target": "ldm.models.autoencoder.AutoencoderKL",
                    "params": {
                        "embed_dim": architecture.embed_dim,
                        "monitor": "val/rec_loss",
                        "ddconfig": architecture.ddconfig,
                        "lossconfig": {"target": "torch.nn.Identity"},
                    },
                },
                "cond_stage_config": {
                    "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
                    "params": {"version": text_folder},
                },
            },
        }
    }
    text = yaml.safe_dump(config, sort_keys=False)
    Path(checkpoint).with_suffix(".yaml").write_text(text, encoding="utf-8")
