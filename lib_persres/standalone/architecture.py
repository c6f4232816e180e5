"""The sizes of an SD1 model: from the yaml beside its file, else the standard ones."""

import copy
import json
import math
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

import yaml

from lib_persres.errors import PersresError, first_line

LARGEST_TEXT = 100_000
"""Bytes of a yaml or a config.json; real ones have 2,000."""
MOST = {"num_res_blocks": 8, "transformer_depth": 4, "num_hidden_layers": 64}
"""What makes layers by its number, and so time without end."""
LARGEST = 1 << 16
"""Of every other number."""
LONGEST = 8
"""Entries of a list; each level of a UNet or an autoencoder has one."""

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


class _Loader(yaml.SafeLoader):
    """YAML without aliases, by which a few lines may stand for more than any memory holds."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases, which no such file needs")
        return super().compose_node(parent, index)


def read(checkpoint) -> Architecture:
    """The architecture in `<name>.yaml` beside the checkpoint, else SD1's."""
    path = Path(checkpoint).with_suffix(".yaml")
    if not path.is_file():
        return Architecture()
    try:
        params = yaml.load(_text(path), _Loader)["model"]["params"]
        standard = Architecture()
        if params.get("parameterization", "eps") != "eps":
            raise PersresError(
                f"{path} describes a model that predicts {str(params['parameterization'])[:20]}; SD1.x predicts eps."
            )
        first_stage = params["first_stage_config"]["params"]
        text = (params.get("cond_stage_config") or {}).get("params") or {}
        made = Architecture(
            unet=dict(params["unet_config"]["params"]),
            ddconfig=dict(first_stage["ddconfig"]),
            embed_dim=int(first_stage["embed_dim"]),
            scale_factor=float(params.get("scale_factor", 1.0)),
            linear_start=float(params.get("linear_start", standard.linear_start)),
            linear_end=float(params.get("linear_end", standard.linear_end)),
            timesteps=int(params.get("timesteps", standard.timesteps)),
            text_folder=_folder(path.parent, text.get("version")),
        )
        _check(made)
        return made
    except PersresError:
        raise
    except (
        *(OSError, yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError),
        *(OverflowError, RecursionError),
    ) as error:
        raise PersresError(f"{path} is not like Stable Diffusion's v1-inference.yaml: {first_line(error)}.") from error


def _text(path: Path) -> str:
    if path.stat().st_size > LARGEST_TEXT:
        raise ValueError(f"it is larger than {LARGEST_TEXT} bytes")
    return path.read_text(encoding="utf-8")


def _folder(beside: Path, version) -> Path | None:
    """The folder of a text encoder, beside the yaml or by its full path, as `toybox install` writes it; SD's own yaml
    has the name of one on a hub there, or nothing."""
    if not isinstance(version, str) or not version or ".." in version:
        return None
    if PureWindowsPath(version).drive.startswith(("\\\\", "//")):  # over the network
        return None
    return beside / version if (beside / version / "config.json").is_file() else None


UNSET = {("num_heads", -1), ("num_head_channels", -1), ("num_heads_upsample", -1)}
"""What ldm writes for "not given"."""


def _check(made: Architecture) -> None:
    """Raise ValueError for sizes that no model has, before anything is made of them."""
    for values in (made.unet, made.ddconfig):
        for name, value in values.items():
            entries = value if isinstance(value, list) else [value]
            if len(entries) > LONGEST:
                raise ValueError(f"{name} has {len(entries)} entries")
            for entry in entries:
                if isinstance(entry, (dict, list)) or (
                    isinstance(entry, (int, float)) and not abs(entry) <= MOST.get(name, LARGEST)
                ):
                    raise ValueError(f"{name} is {str(entry)[:20]}")
                if type(entry) in (int, float) and entry < 0 and (name, entry) not in UNSET:
                    raise ValueError(f"{name} is {str(entry)[:20]}")
    expected = (
        ("in_channels", made.unet.get("in_channels"), (4, 8, 9)),
        ("out_channels", made.unet.get("out_channels"), (4,)),
        ("embed_dim", made.embed_dim, (4,)),
        ("dims", made.unet.get("dims", 2), (2,)),
        ("num_classes", made.unet.get("num_classes"), (None,)),
        ("the autoencoder's in_channels", made.ddconfig.get("in_channels"), (3,)),
        ("out_ch", made.ddconfig.get("out_ch"), (3,)),
    )
    for name, value, allowed in expected:
        if value not in allowed or isinstance(value, bool):
            raise ValueError(f"{name} is {str(value)[:20]} where SD1.x has {allowed[0]}")
    if type(made.unet.get("image_size")) is not int or made.unet["image_size"] < 1:
        raise ValueError("image_size is not a number of pixels")
    if not 0 < abs(made.scale_factor) < 1e3:
        raise ValueError(f"scale_factor is {made.scale_factor:g}")
    if not 1 < made.timesteps <= 10_000:
        raise ValueError(f"timesteps is {str(made.timesteps)[:20]}")
    if not 1e-9 < made.linear_start <= made.linear_end < 1 or made.timesteps * math.log1p(-made.linear_end) < -80:
        raise ValueError(f"linear_start and linear_end are {made.linear_start:g} and {made.linear_end:g}")


def text_config(text: dict, folder: Path | None, checkpoint) -> dict:
    """The text encoder's config.json, else the sizes of its tensors (`transformer.text_model.…`); both must agree."""
    prefix = "transformer.text_model."
    try:
        vocabulary, hidden = text[prefix + "embeddings.token_embedding.weight"].shape
        positions = text[prefix + "embeddings.position_embedding.weight"].shape[0]
        intermediate = text[prefix + "encoder.layers.0.mlp.fc1.weight"].shape[0]
        layers = len({name.removeprefix(prefix).split(".")[2] for name in text if ".encoder.layers." in name})
    except (LookupError, ValueError) as error:
        raise PersresError(f"{checkpoint} is no SD1 checkpoint: its text encoder is not CLIP's.") from error
    if layers > MOST["num_hidden_layers"]:
        raise PersresError(f"{checkpoint} is no SD1 checkpoint: its text encoder has {layers} layers.")
    told = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "max_position_embeddings": positions,
    }
    if folder is not None:
        return _told(folder / "config.json", told)
    if hidden % 64 or not hidden:
        raise PersresError(
            f"{checkpoint}: the number of attention heads of a text encoder {hidden} wide cannot be told; "
            "let the yaml beside it name a folder with the encoder's config.json."
        )
    return {**told, "num_attention_heads": hidden // 64}  # CLIP's heads are 64 wide in every size of its text encoder


def _told(path: Path, told: dict[str, int]) -> dict:
    """A config.json whose sizes are these."""
    try:
        config = json.loads(_text(path))
        config = config.get("text_config") or config
        values = {name: config[name] for name in told if name in config}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise PersresError(f"{path} cannot be read: {first_line(error)}.") from error
    for name, value in values.items():
        if type(value) is not int or value != told[name]:
            raise PersresError(f"{path} says {name} {str(value)[:20]}, and the checkpoint has {told[name]}.")
    heads = config.get("num_attention_heads")
    if type(heads) is not int or heads < 1 or told["hidden_size"] % heads:
        raise PersresError(f"{path} says num_attention_heads {str(heads)[:20]}, which must divide the width.")
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        number = config.get(name, 0)
        if type(number) is not int or not 0 <= number < told["vocab_size"]:
            raise PersresError(f"{path} says {name} {str(number)[:20]}, which is no token of the checkpoint.")
    smallest = config.get("layer_norm_eps", 1e-5)
    if type(smallest) is not float or not 0 < smallest < 1:
        raise PersresError(f"{path} says layer_norm_eps {str(smallest)[:20]}, which must be between 0 and 1.")
    if not isinstance(config.get("hidden_act", "quick_gelu"), str):
        raise PersresError(f"{path} says hidden_act {str(config['hidden_act'])[:20]}, which is no function's name.")
    return {**config, **told}


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
