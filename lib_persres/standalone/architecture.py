"""The sizes of a model and how it reads its texts: from the yaml beside its file, else those of its family."""

import copy
import math
import re
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

import yaml

from lib_persres.errors import PersresError, first_line
from lib_persres.parameterization import EPS, KINDS, V

from .full_sizes import DDCONFIG, SCALES, SD1_UNET, UNETS

LARGEST_TEXT = 100_000
"""Bytes of a yaml or a config.json; real ones have 2,000."""
YAMLS = {"SD1": "v1-inference.yaml", "SD2": "v2-inference.yaml", "SDXL": "sd_xl_base.yaml"}
MOST = {"num_res_blocks": 8, "transformer_depth": 16, "num_hidden_layers": 64}
"""What makes layers by its number, and so time without end."""
MOST_LAYERS = 256
"""Levels times blocks times depth; SDXL has 60."""
LARGEST = 1 << 16
"""Of every other number."""
SIZES = 6 * 256
"""Of SDXL's vectors: six numbers, each embedded in 256; the pooled text comes before them."""
LONGEST = 8
"""Entries of a list; each level of a UNet or an autoencoder has one."""


@dataclass
class Reading:
    """Which of a text encoder's states the UNet is told. arch: what OpenCLIP calls it; "" for CLIP. layer: "last",
    "penultimate", or "hidden", the one behind so many layers."""

    arch: str = ""
    layer: str = "last"
    index: int = 0

    def skipped(self, layers: int) -> int:
        """How many of an encoder's layers come after it."""
        return {"last": 0, "penultimate": 1}.get(self.layer, layers - self.index)


READINGS = {
    "SD1": {"": Reading()},
    "SD2": {"": Reading("ViT-H-14", "penultimate")},
    "SDXL": {"clip_l": Reading("", "hidden", 11), "clip_g": Reading("ViT-bigG-14", "penultimate")},
}
"""Of a family's text encoders, by the names of `residual.ENCODERS`."""


@dataclass
class Architecture:
    """What a model's yaml says. `text_folder` is the folder that its text encoder names, if there. parameterization:
    None where nothing tells it."""

    family: str = "SD1"
    unet: dict = field(default_factory=lambda: copy.deepcopy(SD1_UNET))
    ddconfig: dict = field(default_factory=lambda: copy.deepcopy(DDCONFIG))
    embed_dim: int = 4
    scale_factor: float = 0.18215
    linear_start: float = 0.00085
    linear_end: float = 0.012
    timesteps: int = 1000
    parameterization: str | None = EPS
    readings: dict[str, Reading] = field(default_factory=lambda: copy.deepcopy(READINGS["SD1"]))
    text_folder: Path | None = None


def _of_family(family: str) -> Architecture:
    """Its full-size model's."""
    return Architecture(
        family=family,
        unet=copy.deepcopy(UNETS[family]),
        scale_factor=SCALES[family],
        parameterization=EPS if family == "SD1" else None,
        readings=copy.deepcopy(READINGS[family]),
    )


class _Loader(yaml.SafeLoader):
    """YAML without aliases, by which a few lines may stand for more than any memory holds."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases, which no such file needs")
        return super().compose_node(parent, index)


def read(checkpoint, family: str = "SD1") -> Architecture:
    """The architecture in `<name>.yaml` beside the checkpoint, else the family's."""
    path = Path(checkpoint).with_suffix(".yaml")
    if not path.is_file():
        return _of_family(family)
    try:
        params = yaml.load(text_of(path), _Loader)["model"]["params"]
        made = _read_sdxl(params, path) if family == "SDXL" else _read_ldm(params, family, path)
        # which of several programs computes an attention is no size
        made.unet.pop("spatial_transformer_attn_type", None)
        made.ddconfig.pop("attn_type", None)
        _check(made)
        return made
    except PersresError:
        raise
    except (
        *(OSError, yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError),
        *(OverflowError, RecursionError),
    ) as error:
        raise PersresError(f"{path} is not like Stable Diffusion's {YAMLS[family]}: {first_line(error)}.") from error


def _read_ldm(params: dict, family: str, path: Path) -> Architecture:
    standard = _of_family(family)
    first_stage = params["first_stage_config"]["params"]
    text = (params.get("cond_stage_config") or {}).get("params") or {}
    return Architecture(
        family=family,
        unet=dict(params["unet_config"]["params"]),
        ddconfig=dict(first_stage["ddconfig"]),
        embed_dim=int(first_stage["embed_dim"]),
        scale_factor=float(params.get("scale_factor", 1.0)),
        linear_start=float(params.get("linear_start", standard.linear_start)),
        linear_end=float(params.get("linear_end", standard.linear_end)),
        timesteps=int(params.get("timesteps", standard.timesteps)),
        parameterization=_kind(str(params.get("parameterization", EPS)), path),
        readings={"": _reading(text, standard.readings[""])} if family == "SD2" else standard.readings,
        text_folder=_folder(path, text.get("version")),
    )


def _read_sdxl(params: dict, path: Path) -> Architecture:
    standard = _of_family("SDXL")
    first_stage = params["first_stage_config"]["params"]
    scaling = str(params["denoiser_config"]["params"]["scaling_config"]["target"]).rpartition(".")[2]
    texts: dict[str, dict] = {"FrozenCLIPEmbedder": {}, "FrozenOpenCLIPEmbedder2": {}}
    for model in params["conditioner_config"]["params"]["emb_models"]:
        name = str(model["target"]).rpartition(".")[2]
        if name in texts:
            texts[name] = model.get("params") or {}
    readings = (_reading(text, own) for text, own in zip(texts.values(), standard.readings.values()))
    ddconfig = dict(first_stage["ddconfig"])
    sides = {"image_size": ddconfig["resolution"] // 2 ** (len(ddconfig["ch_mult"]) - 1)}  # sgm's UNet has none
    return Architecture(
        family="SDXL",
        unet={**sides, **params["network_config"]["params"]},
        ddconfig=ddconfig,
        embed_dim=int(first_stage["embed_dim"]),
        scale_factor=float(params.get("scale_factor", standard.scale_factor)),
        parameterization=_kind({"EpsScaling": EPS, "VScaling": V}.get(scaling, scaling), path),
        readings=dict(zip(standard.readings, readings)),
        text_folder=_folder(path, texts["FrozenCLIPEmbedder"].get("version")),
    )


def _kind(given: str, path: Path) -> str:
    if given not in KINDS:
        raise PersresError(f"{path} describes a model that predicts {given[:20]}; here are those of eps and of v.")
    return given


def _reading(text: dict, standard: Reading) -> Reading:
    """layer: as FrozenCLIPEmbedder, FrozenOpenCLIPEmbedder and its second version have it."""
    layer, index = text.get("layer", "last"), text.get("layer_idx") or 0
    if layer not in ("last", "penultimate" if standard.arch else "hidden") or type(index) is not int:
        raise ValueError(f"the text encoder's layer is {str(layer)[:20]} {str(index)[:20]}")
    if standard.arch and text.get("legacy"):
        raise ValueError("the text encoder is sgm's legacy one, which gives no vector for the whole text")
    arch = str(text.get("arch") or standard.arch)
    if standard.arch and not re.fullmatch(r"[\w.-]{1,64}", arch):
        raise ValueError(f"the text encoder's arch is {arch[:20]}")
    return Reading(arch if standard.arch else "", layer, index)


def text_of(path: Path) -> str:
    if path.stat().st_size > LARGEST_TEXT:
        raise ValueError(f"it is larger than {LARGEST_TEXT} bytes")
    return path.read_text(encoding="utf-8")


def _folder(path: Path, version) -> Path | None:
    """The folder of a text encoder: as the yaml at `path` names it, beside it or by its full path, as `toybox install`
    writes it (SD's own yaml has the name of one on a hub there, or nothing); else the one of the checkpoint's name."""
    own = path.with_name(f"{path.stem}_text_encoder")
    named = isinstance(version, str) and version and ".." not in version
    if named and not PureWindowsPath(version).drive.startswith(("\\\\", "//")):  # those are over the network
        own = own if not (path.parent / version / "config.json").is_file() else path.parent / version
    return own if (own / "config.json").is_file() else None


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
    strange = next((name for name, value in made.ddconfig.items() if name not in DDCONFIG and value), None)
    if strange:
        raise ValueError(f"the autoencoder has {strange[:20]}")
    many = (made.unet.get(name, 1) for name in ("num_res_blocks", "transformer_depth"))
    layers = len(made.unet.get("channel_mult", [])) * math.prod(
        max(value, default=1) if isinstance(value, list) else value for value in many
    )
    if layers > MOST_LAYERS:
        raise ValueError("it has more layers than any model")
    expected = (
        ("in_channels", made.unet.get("in_channels"), (4, 8, 9)),
        ("out_channels", made.unet.get("out_channels"), (4,)),
        ("embed_dim", made.embed_dim, (4,)),
        ("dims", made.unet.get("dims", 2), (2,)),
        ("num_classes", made.unet.get("num_classes"), ("sequential",) if made.family == "SDXL" else (None,)),
        ("the autoencoder's in_channels", made.ddconfig.get("in_channels"), (3,)),
        ("out_ch", made.ddconfig.get("out_ch"), (3,)),
    )
    for name, value, allowed in expected:
        if value not in allowed or isinstance(value, bool):
            raise ValueError(f"{name} is {str(value)[:20]} where {made.family} has {allowed[0]}")
    vector = made.unet.get("adm_in_channels")
    if (type(vector) is not int or vector <= SIZES) if made.family == "SDXL" else vector is not None:
        raise ValueError(f"adm_in_channels is {str(vector)[:20]}")
    if type(made.unet.get("image_size")) is not int or made.unet["image_size"] < 1:
        raise ValueError("image_size is not a number of pixels")
    if not 1e-3 < abs(made.scale_factor) < 1e3:
        raise ValueError(f"scale_factor is {made.scale_factor:g}")
    if not 1 < made.timesteps <= 10_000:
        raise ValueError(f"timesteps is {str(made.timesteps)[:20]}")
    if not 1e-6 < made.linear_start <= made.linear_end < 1 or made.timesteps * math.log1p(-made.linear_end) < -80:
        raise ValueError(f"linear_start and linear_end are {made.linear_start:g} and {made.linear_end:g}")


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
