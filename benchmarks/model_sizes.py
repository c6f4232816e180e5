"""The models of random weights that time and memory are measured on."""

from __future__ import annotations

from dataclasses import dataclass

from lib_persres.standalone.full_sizes import DDCONFIG, SD1_UNET


@dataclass(frozen=True)
class ModelSize:
    """unet, ddconfig, text: what the networks are built from. side: of the pictures, in pixels."""

    name: str
    unet: dict
    ddconfig: dict
    text: dict
    side: int

    @property
    def latent(self) -> int:
        """The side of the pictures' latents."""
        return self.side // 2 ** (len(self.ddconfig["ch_mult"]) - 1)

    @property
    def context(self) -> int:
        return self.unet["context_dim"]


SD1 = ModelSize(
    "sd1",
    SD1_UNET,
    DDCONFIG,
    {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    512,
)
TINY = ModelSize(
    "tiny",
    {
        **SD1_UNET,
        "model_channels": 32,
        "attention_resolutions": [1, 2],
        "num_res_blocks": 1,
        "channel_mult": [1, 2],
        "num_heads": 4,
        "context_dim": 32,
    },
    {**DDCONFIG, "ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1},
    {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64},
    32,
)
"""To rehearse on: its figures mean nothing."""
SIZES = {size.name: size for size in (SD1, TINY)}
