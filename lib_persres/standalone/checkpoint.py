"""A model outside of any WebUI: load it from its checkpoint of SD1, SD2 or SDXL, save one in SD1's format."""

import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from lib_persres.conditioning import Conditioning
from lib_persres.errors import PersresError, first_line
from lib_persres.finite import is_finite
from lib_persres.parameterization import EPS, V, with_zero_terminal_snr
from lib_persres.residual import file_hash
from lib_persres.sizes import default_resolution

from . import architecture as arch
from . import weights
from .architecture import SIZES
from .likeness import family_of
from .modules import AutoencoderKL, UNet, build_unet, timestep_embedding
from .open_clip import PADDING
from .text_config import text_config
from .text_encoder import TextEncoder
from .tokenizer import Tokenizer

OF_V, ZERO_TERMINAL_SNR = "v_pred", "ztsnr"
"""Tensors whose being there tells what a file of SDXL predicts, where no yaml does, and that it knows pure noise."""


@dataclass(eq=False)
class StableDiffusion:
    """A loaded model: frozen, in eval mode, on one device.

    alphas_cumprod: (timesteps,) in fp32, the ᾱ_t of x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε. dtype: the UNet's and the
    text encoders'; the autoencoder stays in fp32, since it overflows on some images in fp16. texts: the encoders by the
    names of `residual.ENCODERS`.
    """

    unet: UNet
    vae: AutoencoderKL
    texts: dict[str, TextEncoder]
    scale_factor: float
    alphas_cumprod: torch.Tensor
    device: torch.device
    dtype: torch.dtype
    path: Path
    family: str = "SD1"
    parameterization: str = EPS
    stays = True  # on its device, see `training.host`

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of the checkpoint's file, in hex; read when first asked for."""
        return file_hash(self.path)

    @property
    def short_hash(self) -> str:
        return self.hash[:10]

    @torch.no_grad()
    def encode_images(self, x: torch.Tensor, batch: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (b,3,H,W) in [-1,1] -> mean and standard deviation (b,4,H/8,W/8) of the scaled latents."""
        factor, shape = self.vae.factor, tuple(x.shape)
        if x.ndim != 4 or shape[1] != 3 or shape[2] % factor or shape[3] % factor:
            raise PersresError(f"Images must be (b, 3, H, W) with sides that {factor} divides, not {shape}.")
        parts = [self.vae.moments(part.to(self.device, torch.float32)) for part in x.split(batch)]
        mean, std = (torch.cat(tensors) * self.scale_factor for tensors in zip(*parts, strict=True))
        return mean, std

    @torch.no_grad()
    def decode_latents(self, z: torch.Tensor, batch: int = 4) -> torch.Tensor:
        """Scaled latents (b,4,h,w) -> images (b,3,8h,8w) in [0,1], fp32."""
        parts = z.to(self.device, torch.float32).split(batch)
        images = torch.cat([self.vae.decode(part / self.scale_factor) for part in parts])
        return ((images + 1) / 2).clamp(0, 1)

    @property
    def side(self) -> int:
        return default_resolution(self.unet.params, self.family, self.parameterization)

    @property
    def text(self) -> TextEncoder:
        """The first, whose tokens a prompt's places are counted in; all have the same vocabulary."""
        return next(iter(self.texts.values()))

    def encode_prompts(
        self, texts: list[str], learning: bool = False, side: int | None = None
    ) -> tuple[Conditioning, torch.Tensor]:
        """Prompts -> what the UNet is told of them, and the ids (b,77) it comes from. learning: with its graph. side:
        of the pictures, which SDXL is told. The empty text is what an empty negative prompt is."""
        with torch.set_grad_enabled(learning):
            side = side or self.side
            rows = [self.encode_text(text) for text in texts]
            return self.encode_tokens(rows, (side, side), [not text for text in texts])

    def encode_tokens(
        self,
        rows: list[list[int]],
        size: tuple[int, int],
        nothing: list[bool] | None = None,
        change: Callable[[torch.Tensor], torch.Tensor] = lambda context: context,
    ) -> tuple[Conditioning, torch.Tensor]:
        """Texts as ids, without start, end and padding -> as `encode_prompts`. size: the pictures' width and height.
        nothing: which of them say nothing, as an empty negative prompt does, which SDXL is told by zeros. change: of
        each encoder's context."""
        ids = {name: encoder.padded(rows) for name, encoder in self.texts.items()}
        read = [encoder.read(ids[name]) for name, encoder in self.texts.items()]
        context = torch.cat([change(hidden) for hidden, _ in read], dim=-1)
        first = next(iter(ids.values()))
        pooled = read[-1][1]
        if pooled is None:
            return Conditioning(context), first
        if nothing is not None:
            empty = torch.tensor(nothing, device=context.device)
            context, pooled = context.masked_fill(empty[:, None, None], 0), pooled.masked_fill(empty[:, None], 0)
        width, height = size
        numbers = torch.tensor([height, width, 0, 0, height, width], device=self.device)
        sizes = timestep_embedding(numbers, SIZES // len(numbers)).flatten()
        return Conditioning(context, torch.cat([pooled, sizes.to(pooled).expand(len(rows), -1)], dim=1)), first

    @property
    def token_embedding(self) -> torch.nn.Embedding:
        return self.text.token_embedding

    @property
    def token_tables(self) -> dict[str, torch.nn.Embedding]:
        return {name: encoder.token_embedding for name, encoder in self.texts.items()}

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a text, without start, end or padding."""
        return self.text.tokenizer.encode(text)


def alphas_cumprod(linear_start: float, linear_end: float, timesteps: int) -> torch.Tensor:
    """ᾱ_t = Π (1-β), with √β linear from √linear_start to √linear_end (ldm's "linear" schedule); fp32."""
    betas = torch.linspace(linear_start**0.5, linear_end**0.5, timesteps, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


def default_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def load(path, device=None, dtype: torch.dtype | None = None) -> StableDiffusion:
    """Load a checkpoint of SD1, SD2 or SDXL (.safetensors, or a .ckpt that holds weights alone).

    Its sizes come from `<name>.yaml` beside it, else they must be its family's. dtype: fp16 on CUDA, else fp32.
    Raises PersresError with one sentence that names the file.
    """
    path = Path(path)
    device = torch.device(device) if device is not None else default_device()
    dtype = dtype or (torch.float16 if device.type == "cuda" else torch.float32)
    with weights.opened(path) as state:
        family = family_of(state)
        unet_state, vae_state, text_states = weights.split(state, path, family)
        architecture = arch.read(path, family)
        unet, vae, texts = _empty(path, architecture, text_states)
        # all is compared before any of it is read
        weights.check(unet_state, unet.state_dict(), weights.within(weights.UNET), path)
        weights.check(vae_state, vae.state_dict(), weights.within(weights.VAE), path)
        for name, text in texts.items():
            named = functools.partial(weights.name_of_text, family, name)
            weights.check(text_states[name], text.sd_state_dict(), named, path)
        if sum(text.config["hidden_size"] for text in texts.values()) != unet.params.get("context_dim"):
            raise PersresError(f"{path}: the text encoder is not as wide as the UNet's context_dim.")
        # Copies, never the file's memory map: the file may be replaced while the model is in use.
        unet.load_state_dict(_read(unet_state, device, dtype, weights.within(weights.UNET), path), assign=True)
        vae.load_state_dict(_read(vae_state, device, torch.float32, weights.within(weights.VAE), path), assign=True)
        for name, text in texts.items():
            named = functools.partial(weights.name_of_text, family, name)
            text.take(_read(text_states[name], device, dtype, named, path), device, dtype)
        marks = {mark for mark in (OF_V, ZERO_TERMINAL_SNR) if mark in state}
    modules: tuple[torch.nn.Module, ...] = (unet, vae, *texts.values())
    for module in modules:
        module.eval().requires_grad_(False)
    alphas = alphas_cumprod(architecture.linear_start, architecture.linear_end, architecture.timesteps).to(device)
    kind = architecture.parameterization
    if kind is None:  # no yaml tells
        kind = (V if OF_V in marks else EPS) if family == "SDXL" else _told_kind(unet, device)
    if ZERO_TERMINAL_SNR in marks and kind == V:  # of pure noise, eps says nothing
        alphas = with_zero_terminal_snr(alphas)
    return StableDiffusion(
        unet=unet,
        vae=vae,
        texts=texts,
        scale_factor=architecture.scale_factor,
        alphas_cumprod=alphas,
        device=device,
        dtype=dtype,
        path=path,
        family=family,
        parameterization=kind,
    )


@torch.no_grad()
def _told_kind(unet: UNet, device: torch.device) -> str:
    """What a model of SD2 predicts, by itself, as the WebUI asks it: at the last step the noise is what it is given,
    and v is far from that."""
    x, context = torch.full((1, 4, 8, 8), 0.5, device=device), torch.full((1, 2, unet.params["context_dim"]), 0.5)
    predicted = unet(x, timesteps=torch.tensor([999], device=device), context=context.to(device))
    return V if (predicted - x).mean().item() < -1 else EPS


def _empty(
    path: Path, architecture: arch.Architecture, text_states: dict[str, dict]
) -> tuple[UNet, AutoencoderKL, dict[str, TextEncoder]]:
    """The model's parts, whose weights are still to be read; the UNet and the autoencoder are shapes alone."""
    sidecar = path.with_suffix(".yaml")
    try:
        with torch.device("meta"):  # no random weights to make and throw away
            unet = build_unet(architecture.unet)
            vae = AutoencoderKL(architecture.ddconfig, architecture.embed_dim)
    except PersresError:
        raise
    except ImportError as error:
        raise PersresError(f"Loading {path} needs a package that is not installed: {_line(error)}.") from error
    except Exception as error:  # ldm checks its arguments with asserts and by failing anywhere
        raise PersresError(f"{sidecar} describes no model that can be built: {_line(error)}.") from error
    return unet, vae, {name: _empty_text(path, architecture, name, state) for name, state in text_states.items()}


def _empty_text(path: Path, architecture: arch.Architecture, name: str, state: dict) -> TextEncoder:
    reading = architecture.readings[name]
    config = text_config(state, architecture.text_folder, path, reading)
    beside = path.with_name(f"{path.stem}_text_encoder")
    folders = [folder for folder in (architecture.text_folder, beside, path.parent) if folder is not None]
    tokenizer = Tokenizer.find(*folders)
    if tokenizer.largest >= config["vocab_size"]:
        raise PersresError(f"{path}: the tokenizer beside it has more tokens than its text encoder knows.")
    if config["max_position_embeddings"] != Tokenizer.length:
        raise PersresError(f"{path} has a text encoder that does not read {Tokenizer.length} tokens.")
    skip = reading.skipped(config["num_hidden_layers"])
    if not 0 <= skip < config["num_hidden_layers"]:
        raise PersresError(f"{path}: its text encoder has no layer {reading.index}, which the yaml beside it names.")
    of_sdxl = architecture.family == "SDXL"
    try:
        with torch.device("meta"):  # its sizes are the file's to tell, and not checked yet
            return TextEncoder(
                config,
                tokenizer,
                skip=skip,
                # sgm norms its last state of CLIP alone
                normed=not of_sdxl or (reading.layer == "last" and not reading.arch),
                pooled=architecture.unet["adm_in_channels"] - SIZES if of_sdxl and reading.arch else 0,
                padding=PADDING if reading.arch else None,
            )
    except PersresError:
        raise
    except ImportError as error:
        raise PersresError(f"Loading {path} needs a package that is not installed: {_line(error)}.") from error
    except Exception as error:
        raise PersresError(f"{path}: its text encoder's config is not one: {_line(error)}.") from error


def save_sd1(
    path,
    unet: UNet,
    vae: AutoencoderKL,
    text: TextEncoder,
    scale_factor: float = 0.18215,
    linear_start: float = 0.00085,
    linear_end: float = 0.012,
    timesteps: int = 1000,
    dtype: torch.dtype = torch.float16,
    text_folder: str = "text_encoder",
) -> None:
    """Write `path` (.safetensors) with SD1's names, its yaml, and the folder of the text encoder's config.

    The sizes are those that the three modules keep (`unet.params`, `vae.ddconfig`, `text.config`).
    text_folder: relative to the checkpoint's folder; gets config.json, vocab.json and merges.txt.
    """
    path = Path(path)
    parts = {
        weights.UNET: unet.state_dict(),
        weights.VAE: vae.state_dict(),
        weights.TEXT: text.sd_state_dict(),
    }
    state = {}
    for prefix, tensors in parts.items():
        for name, tensor in tensors.items():
            saved = tensor.detach().to("cpu", dtype).contiguous()
            if not torch.isfinite(saved).all():
                raise PersresError(f"{path} is not written: {dtype} cannot hold {prefix}{name}'s values.")
            state[prefix + name] = saved
    # A constant, but every SD1 file has it and older loaders ask for it.
    positions = torch.arange(text.config["max_position_embeddings"])[None]
    state[weights.TEXT + "transformer.text_model.embeddings.position_ids"] = positions

    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent / text_folder
    text.tokenizer.write_vocabulary(folder)
    config = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", **text.config}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    architecture = arch.Architecture(
        unet=unet.params,
        ddconfig=vae.ddconfig,
        embed_dim=vae.embed_dim,
        scale_factor=float(scale_factor),
        linear_start=linear_start,
        linear_end=linear_end,
        timesteps=timesteps,
    )
    arch.write(path, architecture, text_folder)
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(state, partial, metadata={"format": "pt"})
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(partial, 0o666 & ~umask)  # safetensors makes it the owner's alone
        os.replace(partial, path)  # a crash never leaves half a checkpoint
    except SafetensorError as error:  # of a full disk, too
        raise PersresError(f"{path} cannot be written: {first_line(error)}.") from error
    finally:
        partial.unlink(missing_ok=True)


def _read(stored: dict[str, weights.Stored], device, dtype, named: weights.Name, path: Path) -> dict[str, torch.Tensor]:
    """Raises PersresError where a value is not finite: such a model draws black pictures and learns nothing."""
    tensors = {}
    for name, tensor in stored.items():
        read = tensor.read()
        converted = read.to(dtype)
        if not is_finite(converted):
            if is_finite(read.float()):
                narrow = str(dtype).removeprefix("torch.")
                raise PersresError(f"{path}: {named(name)} has numbers too large for {narrow}: load it in float32.")
            raise PersresError(
                f"{path} has weights that are not finite, the first is {named(name)}: the file is damaged or was "
                "merged wrongly, so take another copy."
            )
        tensors[name] = converted.to(device)
    return tensors


def _line(error: Exception) -> str:
    text = first_line(error)
    return text if text == type(error).__name__ else f"{type(error).__name__} {text}"
