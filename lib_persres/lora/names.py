"""What the tensors of LoRA files are called: kohya's, PEFT's and diffusers' names, old and new, as ldm's module paths.

With underscores for dots all of them are one grammar, which has no two readings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SDXL = "SDXL"
UNET, TEXT = "unet", "text"

_ADAPTER = r"(?:\.[\w-]+)?"
"""PEFT's name of the adapter, "default" mostly, which files made by hand still have."""
_ENDS = (
    # (what the tensor is, "" for what its name says; what its name ends with)
    ("down", re.compile(rf"(?:\.lora_down|\.lora_A{_ADAPTER}|[._]lora\.down|\.lora_linear_layer\.down)\.weight$")),
    ("up", re.compile(rf"(?:\.lora_up|\.lora_B{_ADAPTER}|[._]lora\.up|\.lora_linear_layer\.up)\.weight$")),
    ("mid", re.compile(r"\.lora_mid\.weight$")),
    ("alpha", re.compile(r"\.alpha$")),
    ("dora", re.compile(rf"\.(?:dora_scale|lora_magnitude_vector{_ADAPTER}(?:\.weight)?)$")),
    ("", re.compile(r"\.(hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t2)$")),
    ("oft", re.compile(rf"\.(?:oft_blocks|oft_diag|b?oft_[rRs]{_ADAPTER}(?:\.weight)?|rescale)$")),
    ("diff", re.compile(r"\.(?:diff|diff_b)$")),
    ("glora", re.compile(r"\.[ab][12]\.weight$")),
    ("ia3", re.compile(rf"\.(?:on_input|ia3_l{_ADAPTER})$")),
)
BUNDLED = re.compile(r"bundle_emb\.(.+?)\.(?:string_to_param\..+|[^.]+)")
"""A tensor of an embedding that a LoRA brings along as the WebUI's own; its word."""

_OF_BLOCK = {
    # ldm's path below a block, by ours with underscores; both programs' names are understood
    "proj_in": "proj_in",
    "proj_out": "proj_out",
    "conv1": "in_layers.2",
    "in_layers_2": "in_layers.2",
    "conv2": "out_layers.3",
    "out_layers_3": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "emb_layers_1": "emb_layers.1",
    "conv_shortcut": "skip_connection",
    "skip_connection": "skip_connection",
}
_OF_LAYER = {
    **{f"{a}_{p}": f"{a}.{p}" for a in ("attn1", "attn2") for p in ("to_q", "to_k", "to_v")},
    **{f"{a}_to_out_0": f"{a}.to_out.0" for a in ("attn1", "attn2")},
    **{f"{a}_to_out": f"{a}.to_out.0" for a in ("attn1", "attn2")},
    "ff_net_0_proj": "ff.net.0.proj",
    "ff_net_2": "ff.net.2",
}
_ALONE = {
    "conv_in": "input_blocks.0.0",
    "input_blocks_0_0": "input_blocks.0.0",
    "conv_out": "out.2",
    "out_2": "out.2",
    "time_embedding_linear_1": "time_embed.0",
    "time_embed_0": "time_embed.0",
    "time_embedding_linear_2": "time_embed.2",
    "time_embed_2": "time_embed.2",
    "add_embedding_linear_1": "label_emb.0.0",
    "label_emb_0_0": "label_emb.0.0",
    "add_embedding_linear_2": "label_emb.0.2",
    "label_emb_0_2": "label_emb.0.2",
}
_LAYER = re.compile(r"transformer_blocks_(\d{1,3})_(\w+)")
_DIFFUSERS = re.compile(r"(down_blocks|up_blocks)_(\d)_(attentions|resnets)_(\d)_(\w+)")
_MIDDLE = re.compile(r"mid_block_(attentions|resnets)_(\d)_(\w+)")
_SAMPLER = re.compile(r"(down_blocks|up_blocks)_(\d)_(?:downsamplers|upsamplers)_0_conv")
_LDM = re.compile(r"(input_blocks|output_blocks)_(\d{1,2})_(\d)_(\w+)|(middle_block)_(\d)_(\w+)")
_TEXT = re.compile(r"(?:text_model_)?encoder_layers_(\d{1,3})_(self_attn_(?:q|k|v|out)_proj|mlp_fc[12])")
_BEGINNINGS = (
    # (what a name with underscores begins with, where, the text encoder's number)
    (re.compile(r"lora_unet_|base_model_model_unet_|unet_|(?:model_)?diffusion_model_"), UNET, 0),
    (re.compile(r"lora_te1_|base_model_model_text_encoder_1_|text_encoder_1_"), TEXT, 1),
    (re.compile(r"lora_te2_|text_encoder_2_"), TEXT, 2),
    (re.compile(r"lora_te_|text_encoder_|base_model_model_(?=text_model_)"), TEXT, 0),
    (
        re.compile(
            r"(?:base_model_model_)?(?=down_blocks_|up_blocks_|mid_block_|input_blocks_|output_blocks_|middle_block_"
            r"|conv_in$|conv_out$|time_embed|add_embedding_|label_emb_|out_2$)"
        ),
        UNET,
        0,
    ),
)


@dataclass(frozen=True)
class Name:
    """where: UNET or TEXT. encoder: the text encoder's number, 0 where there is one only. module: the rest of the name
    with underscores, see `unet_path` and `text_path`. part: "down", "up", "mid", "alpha", "dora", LyCORIS's own such as
    "hada_w1_a", "oft", "diff", "glora" or "ia3"."""

    where: str
    encoder: int
    module: str
    part: str


def read_name(name: str) -> Name | None:
    """None for what is no LoRA's tensor."""
    found = next(((kind, end) for kind, pattern in _ENDS if (end := pattern.search(name))), None)
    if found is None:
        return None
    part, end = found[0] or found[1][1], found[1]
    flat = name[: end.start()].replace(".", "_").replace("_processor_", "_")
    if name[end.start() : end.start() + 5] == "_lora":  # "to_out_lora.down.weight" of diffusers' old processors
        flat = flat.removesuffix("_0")
    for beginning, where, number in _BEGINNINGS:
        if begin := beginning.match(flat):
            return Name(where, number, flat[begin.end() :], part)
    return None


def unet_path(module: str, family: str) -> str | None:
    """ldm's path of a UNet's module; None for a name that no UNet has."""
    if module in _ALONE:
        return _ALONE[module]
    if found := _SAMPLER.fullmatch(module):
        level = int(found[2])
        if found[1] == "down_blocks":
            return f"input_blocks.{3 * (level + 1)}.0.op"
        # behind the attention, where the level has one
        return f"output_blocks.{3 * level + 2}.{1 if level == 0 and family != SDXL else 2}.conv"
    if found := _DIFFUSERS.fullmatch(module):
        block, level, kind, index, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
        down = block == "down_blocks"
        number = 1 + 3 * level + index if down else 3 * level + index
        return _in_block(f"{'input' if down else 'output'}_blocks.{number}.{int(kind == 'attentions')}", rest)
    if found := _MIDDLE.fullmatch(module):
        number = 1 if found[1] == "attentions" else 2 * int(found[2])
        return _in_block(f"middle_block.{number}", found[3])
    if found := _LDM.fullmatch(module):
        if found[5]:
            return _in_block(f"middle_block.{found[6]}", found[7])
        block = f"{found[1]}.{found[2]}.{found[3]}"
        return f"{block}.{found[4]}" if found[4] in ("op", "conv") else _in_block(block, found[4])
    return None


def _in_block(block: str, rest: str) -> str | None:
    if rest in _OF_BLOCK:
        return f"{block}.{_OF_BLOCK[rest]}"
    if (layer := _LAYER.fullmatch(rest)) and layer[2] in _OF_LAYER:
        return f"{block}.transformer_blocks.{layer[1]}.{_OF_LAYER[layer[2]]}"
    return None


def text_path(module: str) -> str | None:
    """Hugging Face's path of a text encoder's module; None for a name that CLIP does not have."""
    found = _TEXT.fullmatch(module)
    if not found:
        return None
    rest = found[2].replace("self_attn_", "self_attn.").replace("mlp_", "mlp.")
    return f"text_model.encoder.layers.{found[1]}.{rest}"


def kohya_name(path: str, family: str) -> str:
    """The name that kohya's trainer gives a module: with diffusers' blocks, for SDXL with ldm's. See `unet_path`, of
    which it is the inverse."""
    return "lora_unet_" + (path if family == SDXL else diffusers_path(path, family)).replace(".", "_")


_BACK = {"in_layers.2": "conv1", "out_layers.3": "conv2", "emb_layers.1": "time_emb_proj"}
_BACK["skip_connection"] = "conv_shortcut"
_ALONE_BACK = {
    "input_blocks.0.0": "conv_in",
    "out.2": "conv_out",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
}


def diffusers_path(path: str, family: str) -> str:
    """diffusers' path of one of ldm's."""
    if path in _ALONE_BACK:
        return _ALONE_BACK[path]
    block, *parts = path.split(".")
    if block == "middle_block":
        index, rest = int(parts[0]), ".".join(parts[1:])
        where = "mid_block.attentions.0" if index == 1 else f"mid_block.resnets.{index // 2}"
        return f"{where}.{_BACK.get(rest, rest)}"
    number, child, rest = int(parts[0]), int(parts[1]), ".".join(parts[2:])
    if block == "input_blocks":
        if rest == "op":
            return f"down_blocks.{number // 3 - 1}.downsamplers.0.conv"
        level, index = divmod(number - 1, 3)
    else:
        level, index = divmod(number, 3)
        if rest == "conv":
            return f"up_blocks.{level}.upsamplers.0.conv"
    kind = "attentions" if child == 1 else "resnets"
    return f"{'down' if block == 'input_blocks' else 'up'}_blocks.{level}.{kind}.{index}.{_BACK.get(rest, rest)}"
