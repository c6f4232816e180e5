"""Models of transformers from local files: a folder in its format, or one file of weights under anybody's names.

Nothing is ever downloaded, and nothing but tensors is read of a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from ...errors import PersresError, first_line

try:  # without torchvision the plain name warns, and stands for this one
    from transformers import CLIPImageProcessorPil as ImageProcessor
except ImportError:
    from transformers import CLIPImageProcessor as ImageProcessor

State = dict[str, torch.Tensor]
FILES = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json")
BATCH = 32
"""Pictures or texts that a model sees at a time."""


class Embedder:
    """A model that sees pictures. digest: of its weights and of how it sees."""

    def __init__(self, model: PreTrainedModel, processor: ImageProcessor):
        self.model, self.processor = model, processor
        self.digest = digest_of(model, processor.to_json_string())

    def images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Embeddings (n,d) on the CPU, float32, of PIL images of any size."""
        return in_batches(images, lambda part: self.see(self.pixels(part).to(self.model.device)))

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        seen = [torch.as_tensor(self.processor(image, return_tensors="np")["pixel_values"][0]) for image in images]
        return torch.stack(seen)

    def see(self, pixels: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class Kind:
    """A model that is read. source: where its files are to be had. parts: the names of a fused tensor's thirds.

    renames: (pattern, replacement) from the names that its authors published to transformers'. config: of the
    shapes of a file that comes without one; KeyError where it is another model's. options: of `from_pretrained`.
    """

    name: str
    cls: type[PreTrainedModel]
    source: str
    renames: Sequence[tuple[re.Pattern[str], str]]
    parts: Sequence[str]
    config: Callable[[State], PretrainedConfig]
    options: dict = field(default_factory=dict)

    def load(self, path: str | os.PathLike) -> tuple[PreTrainedModel, Path]:
        """The model and its path. Weights that are not in the file would stay random: PersresError."""
        path = Path(path)
        if not path.exists():
            raise PersresError(f"The weights of {self.name} are missing: there is no {path}. Put there {self.source}.")
        if path.is_dir():
            for names in (("config.json",), FILES):
                if not any((path / name).is_file() for name in names):
                    raise PersresError(
                        f"The weights of {self.name} are incomplete: there is no {path / names[0]}. Get {self.source}."
                    )
            given = {"pretrained_model_name_or_path": path, "local_files_only": True}
        else:
            state = self.renamed(read_state(path, self.name))
            try:
                config = self.config(state)
            except (KeyError, ValueError, AttributeError):
                raise PersresError(f"{path} holds no {self.name}: get {self.source}.") from None
            given = {"pretrained_model_name_or_path": None, "config": config, "state_dict": state}
        try:
            with _quiet():
                options = {"output_loading_info": True, "dtype": torch.float32, **self.options}
                model, names = self.cls.from_pretrained(**given, **options)
        except Exception as error:  # a broken json, a truncated file, other shapes: each library has its own
            raise PersresError(f"{path} cannot be read as {self.name}: {first_line(error)}.") from error
        if missing := sorted(names["missing_keys"]):
            raise PersresError(
                f"{path} lacks {len(missing)} of the model's tensors, such as {missing[0]}: it is another model's."
            )
        if names.get("mismatched_keys"):
            raise PersresError(f"{path} has tensors of other shapes than its model: it is another model's.")
        return model.eval().requires_grad_(False), path

    def renamed(self, state: State) -> State:
        """The state under transformers' names, whatever names it has."""
        out: State = {}
        for name, tensor in state.items():
            for pattern, replacement in self.renames:
                name = pattern.sub(replacement, name)
            if "FUSED" in name:  # queries, keys and values in one
                thirds = zip(self.parts, tensor.chunk(3))
                out |= {name.replace("FUSED", part): third.contiguous() for part, third in thirds}
            elif name.endswith("TRANSPOSED"):
                out[name.removesuffix("TRANSPOSED") + "weight"] = tensor.T.contiguous()
            else:
                out[name] = tensor
        return out


def read_state(path: Path, what: str) -> State:
    """The tensors of a .safetensors file, a state dict saved by torch, or a TorchScript archive (OpenAI's .pt)."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():  # of archives, and of their age
            warnings.simplefilter("ignore")
            try:
                found = torch.load(path, map_location="cpu", weights_only=True)
            except Exception:
                # OpenAI's CLIP files are TorchScript archives, which torch.load refuses
                found = torch.jit.load(path, map_location="cpu").state_dict()
    except Exception as error:  # what the formats' readers raise on a broken file has no common family
        raise PersresError(f"{path} cannot be read as weights of {what}: {first_line(error)}.") from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(v, torch.Tensor) for v in found.values()) or not found:
        raise PersresError(f"{path} holds no weights of {what}.")
    return {name: tensor.detach().float() for name, tensor in found.items()}


def tower(state: State, width: int, layers: re.Pattern[str]) -> dict:
    """A transformer's sizes, heads of 64. layers: a pattern of the tensors' names with the layer's number."""
    count = 1 + max(int(found[1]) for name in state if (found := layers.match(name)))
    heads = max(width // 64, 1)
    sizes = {"hidden_size": width, "intermediate_size": 4 * width}
    return {**sizes, "num_hidden_layers": count, "num_attention_heads": heads}


def squares(patches: torch.Tensor, positions: int) -> dict:
    """A vision transformer's sides, of its patches' weights (width,3,side,side) and its number of positions."""
    side = patches.shape[-1]
    return {"patch_size": side, "image_size": side * round((positions - 1) ** 0.5)}


def digest_of(model: torch.nn.Module, *more: str) -> str:
    found = hashlib.sha256(repr(more).encode())
    for name, tensor in model.state_dict().items():
        found.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:32]


@torch.no_grad()
def in_batches(items: Sequence, embed: Callable[[Sequence], torch.Tensor]) -> torch.Tensor:
    """Embeddings (n,d) on the CPU, float32."""
    parts = [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
    return torch.cat([embed(part).float().cpu() for part in parts])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
