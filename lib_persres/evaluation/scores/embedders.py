"""CLIP and DINO through transformers, from files on this machine; nothing is ever downloaded.

The paper scores with OpenAI's CLIP ViT-B/32 and DINO's ViT-S/16 (section 4.3). Each is given as a folder in
transformers' format or as one file of weights: transformers' names, OpenAI's ViT-B-32.pt, or DINO's own
dino_deitsmall16_pretrain.pth.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel
from transformers.utils import logging

from ...errors import PersresError, first_line
from ...standalone.tokenizer import Tokenizer
from .preprocessing import DINO, Preprocessing, clip_preprocessing, scaled
from .weights import clip_names, dino_names, read_state

CLIP_SOURCE = (
    "the files of huggingface.co/openai/clip-vit-base-patch32 (config.json, model.safetensors, vocab.json, "
    "merges.txt), or OpenAI's ViT-B-32.pt"
)
DINO_SOURCE = (
    "the files of huggingface.co/facebook/dino-vits16 (config.json, model.safetensors), or "
    "dino_deitsmall16_pretrain.pth of github.com/facebookresearch/dino"
)
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json")


class DinoEmbedder:
    """DINO ViT-S/16: pictures -> the class token after the last norm, (n, 384)."""

    def __init__(self, model: ViTModel, preprocessing: Preprocessing, batch: int = 32):
        self.model, self.preprocessing, self.batch = model.eval().requires_grad_(False), preprocessing, batch

    @classmethod
    def load(cls, path: str | os.PathLike, device: str = "cpu", batch: int = 32) -> DinoEmbedder:
        path = _find(path, "DINO ViT-S/16", DINO_SOURCE)
        if path.is_dir():
            model = _from_folder(ViTModel, path, "DINO ViT-S/16", add_pooling_layer=False)
        else:
            state = dino_names(read_state(path, "DINO ViT-S/16"))
            model = _from_state(ViTModel, _dino_config(state, path), state, path, add_pooling_layer=False)
        return cls(model.to(device), scaled(DINO, _side(model.config)), batch)

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Embeddings (n,d) on the CPU, float32, of PIL images of any size."""
        out = []
        for start in range(0, len(images), self.batch):
            pixels = self.preprocessing(images[start : start + self.batch]).to(self.model.device)
            out.append(self.model(pixel_values=pixels).last_hidden_state[:, 0].float().cpu())
        return torch.cat(out) if out else torch.empty(0, self.model.config.hidden_size)


class ClipEmbedder:
    """CLIP: pictures and texts -> projected embeddings (n, 512), not normalised."""

    def __init__(self, model: CLIPModel, tokenizer: Tokenizer, preprocessing: Preprocessing, batch: int = 32):
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self.preprocessing, self.batch = preprocessing, batch

    @classmethod
    def load(cls, path: str | os.PathLike, device: str = "cpu", batch: int = 32) -> ClipEmbedder:
        path = _find(path, "CLIP ViT-B/32", CLIP_SOURCE)
        if path.is_dir():
            model, folder = _from_folder(CLIPModel, path, "CLIP ViT-B/32"), path
        else:
            state = clip_names(read_state(path, "CLIP ViT-B/32"))
            model, folder = _from_state(CLIPModel, _clip_config(state, path), state, path), path.parent
        tokenizer = Tokenizer.find(folder)
        if len(tokenizer.vocabulary) != (size := model.config.text_config.vocab_size):
            raise PersresError(
                f"{path} reads {size} tokens, but the vocabulary has {len(tokenizer.vocabulary)}: "
                "put the model's own vocab.json and merges.txt beside it."
            )
        # a file of weights alone is OpenAI's model: a preprocessor_config.json beside it is another's
        beside = path if path.is_dir() else path / "none"
        preprocessing = clip_preprocessing(beside, _side(model.config.vision_config))
        return cls(model.to(device), tokenizer, preprocessing, batch)

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Embeddings (n,d) on the CPU, float32, of PIL images of any size."""
        out = []
        for start in range(0, len(images), self.batch):
            pixels = self.preprocessing(images[start : start + self.batch]).to(self.model.device)
            pooled = self.model.vision_model(pixel_values=pixels).pooler_output
            out.append(self.model.visual_projection(pooled).float().cpu())
        return torch.cat(out) if out else torch.empty(0, self.model.config.projection_dim)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeddings (n,d) on the CPU, float32; a text over 77 tokens is cut, as OpenAI's code does with truncate."""
        tokenizer, device = self.tokenizer, self.model.device
        ids = [tokenizer.pad(tokenizer.encode(text)) for text in texts]
        out = []
        for start in range(0, len(ids), self.batch):
            part = torch.tensor(ids[start : start + self.batch])
            # what follows the end token is padding, which the causal attention of the rest never sees
            ends = (part == tokenizer.eos).int().argmax(1)
            part = part[:, : int(ends.max()) + 1].to(device)
            hidden = self.model.text_model(input_ids=part).last_hidden_state
            pooled = hidden[torch.arange(len(part)), ends]
            out.append(self.model.text_projection(pooled).float().cpu())
        return torch.cat(out) if out else torch.empty(0, self.model.config.projection_dim)


# -- loading -------------------------------------------------------------------------------------------------


def _find(path: str | os.PathLike, what: str, source: str) -> Path:
    path = Path(path)
    if path.is_file():
        return path
    if not path.exists():
        raise PersresError(f"The weights of {what} are missing: there is no {path}. Put there {source}.")
    if not (path / "config.json").is_file():
        raise PersresError(f"The weights of {what} are incomplete: there is no {path / 'config.json'}. Get {source}.")
    if not any((path / name).is_file() for name in WEIGHTS):
        raise PersresError(f"The weights of {what} are incomplete: there is no {path / WEIGHTS[0]}. Get {source}.")
    return path


@contextlib.contextmanager
def _quiet():
    """transformers' own report of the names and its bar are silenced; the names are checked here."""
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _from_folder(cls, path: Path, what: str, **options):
    try:
        with _quiet():
            model, names = cls.from_pretrained(
                path, local_files_only=True, output_loading_info=True, dtype=torch.float32, **options
            )
    except Exception as error:  # a broken json, a truncated file, other shapes: each library has its own
        raise PersresError(f"{path} cannot be read as {what}: {first_line(error)}.") from error
    return _checked(model, names, path)


def _from_state(cls, config, state: dict[str, torch.Tensor], path: Path, **options):
    try:
        with _quiet():
            model, names = cls.from_pretrained(
                None, config=config, state_dict=state, output_loading_info=True, dtype=torch.float32, **options
            )
    except Exception as error:
        raise PersresError(f"{path} cannot be read as {cls.__name__}: {first_line(error)}.") from error
    return _checked(model, names, path)


def _checked(model, names: dict, path: Path):
    """Weights that are not in the file would stay random, and the scores mean nothing."""
    if missing := sorted(names["missing_keys"]):
        raise PersresError(
            f"{path} lacks {len(missing)} of the model's tensors, such as {missing[0]}: it is another model's."
        )
    if names.get("mismatched_keys"):
        raise PersresError(f"{path} has tensors of other shapes than its model: it is another model's.")
    return model


def _side(config) -> int:
    size = config.image_size
    return size if isinstance(size, int) else size[0]


def _layers(state: dict[str, torch.Tensor], prefix: str) -> int:
    return 1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in state if name.startswith(prefix))


def _clip_config(state: dict[str, torch.Tensor], path: Path) -> CLIPConfig:
    """OpenAI's architecture by the tensors' shapes: heads of 64, patches in a square, quick GELU."""
    try:
        vocabulary, text = state["text_model.embeddings.token_embedding.weight"].shape
        vision, _, patch, _ = state["vision_model.embeddings.patch_embedding.weight"].shape
        patches = len(state["vision_model.embeddings.position_embedding.weight"]) - 1
        ids = {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1}
        return CLIPConfig(
            text_config={
                **_tower(text, _layers(state, "text_model.encoder.layers.")),
                **ids,
                "vocab_size": vocabulary,
            },
            vision_config={
                **_tower(vision, _layers(state, "vision_model.encoder.layers.")),
                "patch_size": patch,
                "image_size": patch * round(patches**0.5),
            },
            projection_dim=len(state["text_projection.weight"]),
            **ids,
        )
    except (KeyError, ValueError, AttributeError):
        raise PersresError(f"{path} holds no CLIP: get {CLIP_SOURCE}.") from None


def _tower(width: int, layers: int) -> dict:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(width // 64, 1),
        "hidden_act": "quick_gelu",
    }


def _dino_config(state: dict[str, torch.Tensor], path: Path) -> ViTConfig:
    """DINO's architecture by the tensors' shapes: heads of 64, norms with eps 1e-6 as in its own code."""
    try:
        width, _, patch, _ = state["embeddings.patch_embeddings.projection.weight"].shape
        patches = state["embeddings.position_embeddings"].shape[1] - 1
        prefix = "encoder.layer." if any(name.startswith("encoder.layer.") for name in state) else "layers."
        shape = {**_tower(width, _layers(state, prefix)), "hidden_act": "gelu"}
        side = patch * round(patches**0.5)
        return ViTConfig(**shape, patch_size=patch, image_size=side, layer_norm_eps=1e-6, qkv_bias=True)
    except (KeyError, ValueError, AttributeError):
        raise PersresError(f"{path} holds no ViT: get {DINO_SOURCE}.") from None
