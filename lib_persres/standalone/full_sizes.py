"""The sizes of the families' own models, as their yamls (v1-inference, v2-inference, sd_xl_base) say."""

from __future__ import annotations

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
SD2_UNET = {
    **{name: value for name, value in SD1_UNET.items() if name != "num_heads"},
    "num_head_channels": 64,
    "use_linear_in_transformer": True,
    "context_dim": 1024,
}
SDXL_UNET = {
    **{name: value for name, value in SD2_UNET.items() if name != "image_size"},
    "attention_resolutions": [4, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [1, 2, 10],
    "context_dim": 2048,
    "adm_in_channels": 2816,
    "num_classes": "sequential",
}
UNETS = {"SD1": SD1_UNET, "SD2": SD2_UNET, "SDXL": SDXL_UNET}
DDCONFIG = {
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
SCALES = {"SD1": 0.18215, "SD2": 0.18215, "SDXL": 0.13025}
"""Of the latents."""
