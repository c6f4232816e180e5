"""The sizes of a text encoder: from the file beside the checkpoint that tells them, else those of its tensors."""

from __future__ import annotations

import json
from pathlib import Path

from lib_persres.errors import PersresError, first_line

from .architecture import MOST, Reading, text_of


def text_config(text: dict, folder: Path | None, checkpoint, reading: Reading | None = None) -> dict:
    """The config of a text encoder under CLIP's names: from its config.json, else by the sizes of its tensors
    (`transformer.text_model.…`); both must agree. reading: an OpenCLIP's, whose config has its name."""
    prefix = "transformer.text_model."
    try:
        vocabulary, hidden = text[prefix + "embeddings.token_embedding.weight"].shape
        positions = text[prefix + "embeddings.position_embedding.weight"].shape[0]
        intermediate = text[prefix + "encoder.layers.0.mlp.fc1.weight"].shape[0]
        layers = len({name.removeprefix(prefix).split(".")[2] for name in text if ".encoder.layers." in name})
    except (LookupError, ValueError) as error:
        raise PersresError(f"{checkpoint} has a text encoder that is not CLIP's.") from error
    if layers > MOST["num_hidden_layers"]:
        raise PersresError(f"{checkpoint} has a text encoder of {layers} layers, which none has.")
    told = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "max_position_embeddings": positions,
    }
    arch = reading.arch if reading else ""
    if arch:
        file = Path(checkpoint).with_name(f"{Path(checkpoint).stem}_text_encoder") / f"{arch}.json"
        if file.is_file():
            return _told_open_clip(file, told)
    elif folder is not None:
        return _told(folder / "config.json", told)
    if arch and (hidden % 64 or not hidden):
        beside = f"{Path(checkpoint).stem}_text_encoder/{arch}.json"
        raise PersresError(
            f"{checkpoint}: the number of attention heads of a text encoder {hidden} wide cannot be told; "
            f"put OpenCLIP's description of it into {beside}, as `toybox convert` does."
        )
    if hidden % 64 or not hidden:
        raise PersresError(
            f"{checkpoint}: the number of attention heads of a text encoder {hidden} wide cannot be told; "
            "let the yaml beside it name a folder with the encoder's config.json."
        )
    # CLIP's heads are 64 wide in every size of its text encoder, OpenCLIP's in those that SD2 and SDXL have
    return {**told, "num_attention_heads": hidden // 64, "hidden_act": "gelu" if arch else "quick_gelu"}


def _told_open_clip(path: Path, told: dict[str, int]) -> dict:
    """OpenCLIP's description of a model."""
    try:
        config = json.loads(text_of(path))
        text, quick = config["text_cfg"], config.get("quick_gelu", False)
        heads = text["heads"]
        sizes = {"width": "hidden_size", "layers": "num_hidden_layers", "vocab_size": "vocab_size"}
        wrong = next((name for name, ours in sizes.items() if text.get(name, told[ours]) != told[ours]), None)
    except (OSError, ValueError, AttributeError, TypeError, LookupError, RecursionError) as error:
        raise PersresError(f"{path} cannot be read: {first_line(error)}.") from error
    if wrong or type(quick) is not bool:
        raise PersresError(f"{path} says another {wrong or 'quick_gelu'} than the checkpoint's text encoder has.")
    if type(heads) is not int or heads < 1 or told["hidden_size"] % heads:
        raise PersresError(f"{path} says heads {str(heads)[:20]}, which must divide the width.")
    return {**told, "num_attention_heads": heads, "hidden_act": "quick_gelu" if quick else "gelu"}


def _told(path: Path, told: dict[str, int]) -> dict:
    """A config.json whose sizes are these."""
    try:
        config = json.loads(text_of(path))
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
