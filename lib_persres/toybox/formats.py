"""An SD1 model of any size in the formats of SD2 and SDXL, by exact conversion: it draws the same pictures.

What the families' own models have and SD1 has not is there and does nothing: SDXL's second text encoder and its vector.
"""

from __future__ import annotations

import copy
import math

import torch

from ..errors import PersresError
from ..standalone.architecture import SIZES
from ..standalone.open_clip import PADDING, PARTS
from ..standalone.weights import UNET, VAE

FAMILIES = ("SD2", "SDXL")
TEXT = "cond_stage_model.transformer.text_model."
VOCABULARY, LENGTH = 49408, 77
"""OpenCLIP's; the last token of the vocabulary ends a text. It pads with token 0, where CLIP repeats the end."""
FIRST, SECOND = "toybox", "toybox-second"
"""What OpenCLIP is to call the text encoder, and SDXL's second one."""
SECOND_WIDTH, SECOND_POOLED, SECOND_LAYERS, SECOND_HEADS = 16, 24, 2, 2
ASSUMED = {"linear_start": 0.00085, "linear_end": 0.012, "timesteps": 1000, "parameterization": "eps"}
"""By SDXL's readers, whatever the yaml says."""
SGM_UNET = (
    "in_channels out_channels model_channels attention_resolutions num_res_blocks channel_mult num_heads "
    "num_head_channels use_spatial_transformer"
).split()
State = dict[str, torch.Tensor]


def converted(state: State, sidecar: dict, family: str) -> tuple[State, dict]:
    """The tensors and the yaml's content of an SD1 checkpoint in another family's format.

    state: every tensor of the file by name; the result shares those that stay as they are. family: of FAMILIES.
    Raises PersresError for what is no such model or cannot be told in that format.
    """
    if family not in FAMILIES:
        raise PersresError(f"There is no conversion to {str(family)[:20]}: the families are {' and '.join(FAMILIES)}.")
    try:
        params = copy.deepcopy(sidecar["model"]["params"])
        unet = {**params["unet_config"]["params"], "use_linear_in_transformer": True, "legacy": False}
        first_stage, text = params["first_stage_config"]["params"], params["cond_stage_config"]["params"]
    except (LookupError, TypeError) as error:
        raise PersresError("The yaml of the model to convert is not like v1-inference.yaml.") from error
    _check(state)
    for name, value in ASSUMED.items() if family == "SDXL" else ():
        if params.get(name, value) != value:
            raise PersresError(f"The model to convert has {name} {params[name]}, and SDXL's format knows only {value}.")
    made = _with_linear_projections(state)
    if family == "SD2":
        made = {**{name: t for name, t in made.items() if not name.startswith(TEXT)}, **_open_clip(state)}
        params["unet_config"]["params"] = unet
        params["cond_stage_config"] = {
            "target": "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder",
            "params": {"arch": FIRST, "version": None, "freeze": True, "layer": "last"},
        }
        return made, {"model": {**sidecar["model"], "params": params}}
    made = {name.replace(TEXT, "conditioner.embedders.0.transformer.text_model."): t for name, t in made.items()}
    generator = torch.Generator().manual_seed(0)
    like = state[TEXT + "embeddings.token_embedding.weight"]
    for name, tensor in made.items():
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):  # nothing comes from the second encoder
            made[name] = torch.cat([tensor, tensor.new_zeros(len(tensor), SECOND_WIDTH)], dim=1)
    made |= {f"conditioner.embedders.1.model.{name}": t for name, t in _random_tower(generator, like.dtype).items()}
    made |= _ignored_vector(state[UNET + "time_embed.2.weight"], generator)
    return made, _sdxl_sidecar(params, unet, first_stage, text, like.shape[1])


def open_clip_configs(text_config: dict, family: str) -> dict[str, dict]:
    """The sizes of the family's OpenCLIP text encoders by `arch`, as `open_clip.add_model_config` reads them.

    text_config: the SD1 text encoder's config.json.
    """
    if family == "SDXL":
        return {SECOND: _open_clip_config(SECOND_POOLED, SECOND_WIDTH, SECOND_HEADS, SECOND_LAYERS)}
    if text_config.get("hidden_act", "quick_gelu") != "quick_gelu" or text_config.get("layer_norm_eps", 1e-5) != 1e-5:
        raise PersresError("The text encoder cannot be OpenCLIP's: that has quick_gelu and a layer_norm_eps of 1e-5.")
    width, heads, layers = (text_config[name] for name in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    return {FIRST: _open_clip_config(width, width, heads, layers)}


def _open_clip_config(pooled: int, width: int, heads: int, layers: int) -> dict:
    return {
        "embed_dim": pooled,
        "quick_gelu": True,
        # OpenCLIP makes a model of pictures too, which SD's text encoders throw away
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 32},
        "text_cfg": {
            "context_length": LENGTH,
            "vocab_size": VOCABULARY,
            "width": width,
            "heads": heads,
            "layers": layers,
        },
    }


def _check(state: State) -> None:
    for prefix, what in ((UNET, "UNet"), (VAE, "autoencoder"), (TEXT, "text encoder")):
        if not any(name.startswith(prefix) for name in state):
            raise PersresError(f"The model to convert is no SD1 model: it has no {what} ({prefix}*).")
    if any(_is_projection(name) and tensor.ndim != 4 for name, tensor in state.items()):
        raise PersresError("The model to convert has linear projections already, so it is no SD1 model.")
    tokens, places, inside = (
        tuple(state[TEXT + name].shape) if TEXT + name in state else ()
        for name in (
            "embeddings.token_embedding.weight",
            "embeddings.position_embedding.weight",
            "encoder.layers.0.mlp.fc1.weight",
        )
    )
    width = tokens[-1] if tokens else 0
    if (tokens, places, inside) != ((VOCABULARY, width), (LENGTH, width), (4 * width, width)):
        raise PersresError(
            f"The model to convert has a text encoder that OpenCLIP has no place for: it needs {VOCABULARY} tokens, "
            f"{LENGTH} places and layers that are four times as wide inside."
        )


def _is_projection(name: str) -> bool:
    return name.startswith(UNET) and name.endswith((".proj_in.weight", ".proj_out.weight"))


def _with_linear_projections(state: State) -> State:
    """A 1x1 convolution is a linear map of every pixel."""
    return {name: tensor[:, :, 0, 0].contiguous() if _is_projection(name) else tensor for name, tensor in state.items()}


def _open_clip(state: State) -> State:
    """CLIP's text encoder under OpenCLIP's names, `cond_stage_model.model.…`."""
    text = {name.removeprefix(TEXT): tensor for name, tensor in state.items() if name.startswith(TEXT)}
    tokens = text["embeddings.token_embedding.weight"].clone()
    # So that padding is what it was. Token 0 itself is a "!" at the start of a longer word, as in "!a": it is lost.
    tokens[PADDING] = tokens[-1]
    made = {
        "token_embedding.weight": tokens,
        "positional_embedding": text["embeddings.position_embedding.weight"],
        "text_projection": torch.eye(tokens.shape[1], dtype=tokens.dtype),
        "logit_scale": torch.tensor(math.log(1 / 0.07), dtype=tokens.dtype),
    }
    for kind in ("weight", "bias"):
        made[f"ln_final.{kind}"] = text[f"final_layer_norm.{kind}"]
        for number in range(_layers(text)):
            old, new = f"encoder.layers.{number}.", f"transformer.resblocks.{number}."
            made[f"{new}attn.in_proj_{kind}"] = torch.cat([text[f"{old}self_attn.{p}_proj.{kind}"] for p in "qkv"])
            made |= {f"{new}{there}.{kind}": text[f"{old}{here}.{kind}"] for there, here in PARTS.items()}
    return {"cond_stage_model.model." + name: tensor for name, tensor in made.items()}


def _layers(text: State) -> int:
    return len({name.split(".")[2] for name in text if name.startswith("encoder.layers.")})


def _random_tower(generator: torch.Generator, dtype: torch.dtype) -> State:
    """A small OpenCLIP text encoder with its projection; random, so that who heeds it draws other pictures."""
    width = SECOND_WIDTH

    def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * scale * width**-0.5).to(dtype)

    made = {
        "token_embedding.weight": random(VOCABULARY, width),
        "positional_embedding": random(LENGTH, width, scale=0.5),
        "text_projection": random(width, SECOND_POOLED),
        "logit_scale": torch.tensor(math.log(1 / 0.07), dtype=dtype),
    }
    for number in range(SECOND_LAYERS):
        block = f"transformer.resblocks.{number}."
        for name, rows, columns in (
            ("attn.in_proj_", 3 * width, width),
            ("attn.out_proj.", width, width),
            ("mlp.c_fc.", 4 * width, width),
            ("mlp.c_proj.", width, 4 * width),
        ):
            made[f"{block}{name}weight"] = random(rows, columns)
            made[f"{block}{name}bias"] = torch.zeros(rows, dtype=dtype)
    norms = [f"transformer.resblocks.{number}.{ln}" for number in range(SECOND_LAYERS) for ln in ("ln_1", "ln_2")]
    for name in (*norms, "ln_final"):
        made |= {f"{name}.weight": torch.ones(width, dtype=dtype), f"{name}.bias": torch.zeros(width, dtype=dtype)}
    return made


def _ignored_vector(time_embed: torch.Tensor, generator: torch.Generator) -> State:
    """SDXL's `label_emb`, as wide as the time's embedding, whose last layer gives 0 whatever the vector is."""
    width, inputs = len(time_embed), SIZES + SECOND_POOLED
    return {
        UNET + "label_emb.0.0.weight": (torch.randn(width, inputs, generator=generator) * inputs**-0.5).to(time_embed),
        UNET + "label_emb.0.0.bias": time_embed.new_zeros(width),
        UNET + "label_emb.0.2.weight": time_embed.new_zeros(width, width),
        UNET + "label_emb.0.2.bias": time_embed.new_zeros(width),
    }


def _sdxl_sidecar(params: dict, unet: dict, first_stage: dict, text: dict, width: int) -> dict:
    """sd_xl_base.yaml with these sizes. width: of the first text encoder."""
    diffusion, encoders = "sgm.modules.diffusionmodules.", "sgm.modules.encoders.modules."
    depth = unet.get("transformer_depth", 1)
    network = {
        "adm_in_channels": SIZES + SECOND_POOLED,
        "num_classes": "sequential",
        "use_checkpoint": True,
        **{name: unet[name] for name in SGM_UNET if name in unet},
        "use_linear_in_transformer": True,
        "transformer_depth": depth if isinstance(depth, list) else [depth] * len(unet["channel_mult"]),
        "context_dim": width + SECOND_WIDTH,
        "spatial_transformer_attn_type": "softmax-xformers",
        "legacy": False,
    }
    clip = {"version": text.get("version"), "layer": "last"}
    open_clip = {
        **{"arch": SECOND, "version": None, "freeze": True},
        **{"layer": "penultimate", "always_return_pooled": True, "legacy": False},
    }
    embedders = [("txt", "FrozenCLIPEmbedder", clip), ("txt", "FrozenOpenCLIPEmbedder2", open_clip)]
    sizes = ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")
    embedders += [(key, "ConcatTimestepEmbedderND", {"outdim": 256}) for key in sizes]
    denoiser = {
        "num_idx": ASSUMED["timesteps"],
        "weighting_config": {"target": diffusion + "denoiser_weighting.EpsWeighting"},
        "scaling_config": {"target": diffusion + "denoiser_scaling.EpsScaling"},
        "discretization_config": {"target": diffusion + "discretizer.LegacyDDPMDiscretization"},
    }
    return {
        "model": {
            "target": "sgm.models.diffusion.DiffusionEngine",
            "params": {
                "scale_factor": params.get("scale_factor", 1.0),
                "disable_first_stage_autocast": True,
                "denoiser_config": {"target": diffusion + "denoiser.DiscreteDenoiser", "params": denoiser},
                "network_config": {"target": diffusion + "openaimodel.UNetModel", "params": network},
                "conditioner_config": {
                    "target": "sgm.modules.GeneralConditioner",
                    "params": {
                        "emb_models": [
                            {"is_trainable": False, "input_key": key, "target": encoders + name, "params": options}
                            for key, name, options in embedders
                        ]
                    },
                },
                "first_stage_config": {
                    "target": "sgm.models.autoencoder.AutoencoderKLInferenceWrapper",
                    "params": first_stage,
                },
            },
        }
    }
