"""The networks of SD1, SD2 and SDXL: ldm's own UNet, for SDXL with what its depths need, and its autoencoder.

State-dict names are those of the families' checkpoints, so that a file loads and saves without a table.
"""

import contextlib
import io
import math

import torch
import torch.nn.functional as F
from torch import nn

from lib_persres.errors import PersresError

try:
    with contextlib.redirect_stdout(io.StringIO()):  # ldm prints a line about xformers at import
        from ldm.modules.attention import BasicTransformerBlock, SpatialTransformer
        from ldm.modules.diffusionmodules.model import Decoder, Encoder
        from ldm.modules.diffusionmodules.openaimodel import UNetModel
        from ldm.modules.diffusionmodules.util import GroupNorm32
except ImportError as error:
    raise PersresError(
        f"The networks need ldm ({error}): run pip install --no-deps stable-diffusion-sdkit, which is right only "
        "with --no-deps."
    ) from error

OF_SDXL = ("transformer_depth", "adm_in_channels", "num_classes", "spatial_transformer_attn_type")
"""What sgm's UNet is told beside ldm's."""


class UNet(UNetModel):
    """ldm's UNet, whose weights may be of any dtype.

    forward(x (b,c,h,w), timesteps (b,), context (b,n,d), y (b,m), SDXL's vectors) -> (b,c,h,w) in x's dtype.
    """

    def forward(self, x, timesteps=None, context=None, y=None, **ignored):
        # ldm leaves the time embedding in fp32, which fails on half weights without autocast.
        dtype = self.input_blocks[0][0].weight.dtype
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels).to(dtype))
        if self.num_classes is not None:
            emb = emb + self.label_emb(y.to(dtype))
        context = None if context is None else context.to(dtype)
        h, skips = x.to(dtype), []
        for module in self.input_blocks:
            h = module(h, emb, context)
            skips.append(h)
        h = self.middle_block(h, emb, context)
        for module in self.output_blocks:
            h = module(torch.cat([h, skips.pop()], dim=1), emb, context)
        return self.out(h).to(x.dtype)


def timestep_embedding(timesteps: torch.Tensor, width: int) -> torch.Tensor:
    """ldm's, (b,) -> (b, width) in fp32, made where the timesteps are: a CUDA graph can hold no copy from elsewhere."""
    steps = torch.arange(width // 2, dtype=torch.float32, device=timesteps.device)
    angles = timesteps[:, None].float() * torch.exp(-math.log(10000) * steps / (width // 2))
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class NativeGroupNorm(GroupNorm32):
    """ldm's GroupNorm32, except that half weights meet half activations (the kernel sums in fp32)."""

    def forward(self, x):
        if self.weight.dtype == torch.float32:
            return super().forward(x)
        return nn.GroupNorm.forward(self, x.to(self.weight.dtype))


class SDPACrossAttention(nn.Module):
    """ldm's CrossAttention without its (b·heads, n, m) softmax in memory.

    Calls to_q, to_k and to_v as modules, as every implementation does, so that their hooks fire.
    Instances are made by `use_sdpa`, which gives this class to an attention that ldm built.
    """

    def forward(self, x, context=None, mask=None):
        context = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))  # b, heads, n, d
        if mask is not None:
            mask = mask.flatten(1)[:, None, None, :]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.to_out(out.transpose(1, 2).flatten(2))


class SDPAAttnBlock(nn.Module):
    """The autoencoder's one-head self-attention over pixels, without its (hw, hw) softmax in memory."""

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (t(h).flatten(2).transpose(1, 2)[:, None] for t in (self.q, self.k, self.v))  # b, 1, hw, c
        out = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(out[:, 0].transpose(1, 2).reshape(x.shape))


def use_sdpa(model: nn.Module) -> nn.Module:
    """Let the attentions of this ldm UNet or autoencoder, and of no other, use torch's fused attention."""
    # A class is assigned, not a forward on the instance: nothing to pickle, copy or restore. ldm builds
    # other classes (with the same parameters) when xformers is installed, hence names and not types.
    replacements = {
        "CrossAttention": SDPACrossAttention,
        "MemoryEfficientCrossAttention": SDPACrossAttention,
        "AttnBlock": SDPAAttnBlock,
        "MemoryEfficientAttnBlock": SDPAAttnBlock,
    }
    for module in model.modules():
        replacement = replacements.get(type(module).__name__)
        if replacement is not None:
            module.__class__ = replacement
    return model


def build_unet(params: dict, sdpa: bool = True) -> UNet:
    """A UNet with random weights from the `unet_config.params` of a v1-inference.yaml or v2-inference.yaml, or the
    `network_config.params` of an sd_xl_base.yaml.

    Gradient checkpointing is off unless asked for afterwards, and `legacy` is off as in every such yaml.
    `.params` keeps what it was built from.
    """
    params = {key: list(value) if isinstance(value, tuple) else value for key, value in params.items()}
    own = {key: value for key, value in params.items() if key not in OF_SDXL}
    depth = params.get("transformer_depth", 1)
    with contextlib.redirect_stdout(io.StringIO()):
        unet = UNet(
            **{"image_size": 0, "legacy": False, **own, "use_checkpoint": False, "use_fp16": False}
            | {"transformer_depth": 1}
        )
    if depth != 1:
        _deepen(unet, depth if isinstance(depth, list) else [depth] * len(params["channel_mult"]))
    if (vector := params.get("adm_in_channels")) is not None:
        width = unet.time_embed[2].out_features
        unet.label_emb = nn.Sequential(nn.Sequential(nn.Linear(vector, width), nn.SiLU(), nn.Linear(width, width)))
        unet.num_classes = "sequential"
    for module in unet.modules():
        if type(module) is GroupNorm32:
            module.__class__ = NativeGroupNorm
    unet.params = params
    return use_sdpa(unet) if sdpa else unet


class DeepTransformer(SpatialTransformer):
    """ldm's, for several layers that read one context, as sgm's does."""

    def forward(self, x, context=None):
        return super().forward(x, [context] * len(self.transformer_blocks))


def _deepen(unet: UNet, depths: list[int]) -> None:
    """Give each spatial transformer its level's layers; the middle block has those of the last level."""
    blocks = (*unet.input_blocks, unet.middle_block, *unet.output_blocks)
    for block, depth in zip(blocks, _depths(unet, depths), strict=True):
        for transformer in (layer for layer in block if type(layer) is SpatialTransformer):
            (first,) = transformer.transformer_blocks
            if depth < 1:
                raise PersresError("A level of the UNet has attention and a transformer_depth of 0, which none has.")
            width, heads = first.attn1.to_q.in_features, first.attn1.heads
            for _ in range(depth - 1):
                transformer.transformer_blocks.append(
                    BasicTransformerBlock(
                        width, heads, width // heads, context_dim=first.attn2.to_k.in_features, checkpoint=False
                    )
                )
            transformer.__class__ = DeepTransformer


def _depths(unet: UNet, depths: list[int]) -> list[int]:
    """Of each input block, the middle block, each output block."""
    levels = list(zip(depths, unet.num_res_blocks, strict=True))
    down = [[depth] * (count + (level < len(levels) - 1)) for level, (depth, count) in enumerate(levels)]
    up = [[depth] * (count + 1) for depth, count in reversed(levels)]
    return [0, *sum(down, []), depths[-1], *sum(up, [])]


class AutoencoderKL(nn.Module):
    """SD's first stage: images (b,3,H,W) in [-1,1] and unscaled latents (b,embed_dim,H/f,W/f)."""

    def __init__(self, ddconfig: dict, embed_dim: int, sdpa: bool = True):
        super().__init__()
        self.ddconfig, self.embed_dim = dict(ddconfig), int(embed_dim)
        if not ddconfig.get("double_z", True):
            raise PersresError("The autoencoder's ddconfig must have double_z: true (a mean and a variance).")
        with contextlib.redirect_stdout(io.StringIO()):  # ldm prints what it builds
            self.encoder, self.decoder = Encoder(**ddconfig), Decoder(**ddconfig)
        self.quant_conv = nn.Conv2d(2 * ddconfig["z_channels"], 2 * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, ddconfig["z_channels"], 1)
        if sdpa:
            use_sdpa(self)

    @property
    def factor(self) -> int:
        """How many image pixels make a latent pixel, along one side."""
        return 2 ** (len(self.ddconfig["ch_mult"]) - 1)

    def moments(self, x) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the posterior of unscaled latents."""
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, (0.5 * logvar.clamp(-30.0, 20.0)).exp()

    encode = moments

    def decode(self, z):
        return self.decoder(self.post_quant_conv(z))
