"""The residual of a concept: a low-rank ΔW for each target module, and its file.

The file is a .safetensors: two tensors for each target, `<target>.down` and `<target>.up`, where <target> is
the module's own path in the UNet, optionally `embedding.<name>`, and Metadata in the header.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from .errors import PersresError, first_line, readable
from .metadata import FORMAT, Metadata, check_concept
from .names import one_form
from .regular_files import open_regular
from .targets import EMBEDDING, EVERY, canonical, parts_of
from .tensor_file import FLOATS, Place, TensorFile
from .unet import find_targets, target_widths
from .writing import write_whole

MAX_FILE = 1 << 30
"""Bytes; SDXL's residual at full rank, the largest that makes sense, is a quarter of it."""
MAX_SIDE = 65536
MAX_VECTORS = 75
"""Of a learned word: as many tokens as a prompt has."""
MAX_VALUE = 65504.0
"""The largest number of fp16, in which most models compute."""
MAX_CHANGE = 10_000.0
"""Of one weight, by up · down; a model's own weights are below 10, and such a change paints the picture black."""

_EMBEDDING = "embedding."


ENCODERS = ("", "clip_l", "clip_g")
"""A family's only text encoder, and SDXL's two in their order, by the names that files of embeddings give them."""


def key_of(encoder: str, word: str) -> str:
    """What a residual calls a word's vectors for a text encoder of ENCODERS."""
    return f"{encoder}.{word}" if encoder else word


def rank_of(rule: str | float, width: int) -> int:
    """The rank r for a target of width m: "0.05m" is round(0.05·m) and at least 1, "8" or 8 is 8; at most m.

    A number below 1 is a fraction as well: 0.05 means "0.05m".
    """
    number = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*(m?)", str(rule).strip())
    if number and not isinstance(rule, bool):
        value = float(number[1])
        if (number[2] and 0 < value <= 1) or 0 < value < 1:
            return max(1, min(round(value * width), width))
        if not number[2] and value >= 1 and value.is_integer():
            return int(min(value, width))
    raise PersresError(
        f"The rank {str(rule)[:40]!r} is neither a part of the width like 0.05m nor a whole number like 8."
    )


@dataclass(frozen=True, eq=False)
class Factors:
    """ΔW = up · down of one target of width m_in -> m_out; of a convolution, whose kernel's size is a factor of m_in.

    down: (r, m_in), the paper's B_i. up: (m_out, r), the paper's A_i. LoRA's paper has A and B the other way
    round, so the names here say what the factors do.
    """

    down: torch.Tensor
    up: torch.Tensor

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def delta(self) -> torch.Tensor:
        """ΔW: (m_out, m_in)."""
        return self.up @ self.down


@dataclass(eq=False)
class Residual:
    """A concept's residual.

    factors: by the path of their target, such as "input_blocks.1.1.proj_out"; metadata.targets is the rule that picks
    these. embeddings: what was learned for a token, by its word: for the identifier a vector (d,) or a few (n, d);
    of SDXL, which has two text encoders, two of them, see `key_of`.
    """

    factors: dict[str, Factors]
    metadata: Metadata = field(default_factory=Metadata)
    embeddings: dict[str, torch.Tensor] = field(default_factory=dict)

    partial: ClassVar[bool] = False
    """Whether it may change a part of its targets alone, as other programs' files do."""

    @classmethod
    def initialise(
        cls,
        unet: nn.Module,
        rank: str | float = "0.05m",
        generator: torch.Generator | None = None,
        metadata: Metadata | None = None,
        targets: str = "proj_out",
    ) -> Residual:
        """A residual to train, of all the targets: down ~ N(0, 1/m_in), up = 0, so that ΔW = 0; fp32 on the CPU.

        generator: a CPU generator; it is read target by target, so a seed is one residual on every machine.
        """
        factors = {}
        for target in find_targets(unet, targets):
            width_in, width = target.widths
            r = rank_of(rank, min(width_in, width))
            down = torch.randn(r, width_in, generator=generator, device="cpu", dtype=torch.float32)
            up = torch.zeros(width, r, device="cpu", dtype=torch.float32)
            factors[target.path] = Factors(down * width_in**-0.5, up)
        return cls(factors, replace(metadata or Metadata(), rank=str(rank), targets=canonical(targets)))

    def parameters_count(self) -> int:
        return sum(tensor.numel() for tensor in self._tensors().values())

    def check(
        self,
        unet: nn.Module,
        where: str = "",
        widths: Callable[[nn.Module, str], Mapping[str, tuple[int, int]]] = target_widths,
    ) -> None:
        """Raise PersresError unless the factors fit the UNet: those that metadata.targets picks, and no others.

        where: what the sentence calls the residual, e.g. its file; the concept's name if empty. widths: who checks
        many residuals gives one that remembers.
        """
        where = where or f"The residual of {self.metadata.concept or 'an unnamed concept'}"
        family = f"{self.metadata.base_family} " if self.metadata.base_family else ""
        advice = f"load the {family}model that it was made on, or one derived from it"
        try:
            rule = canonical(self.metadata.targets)
        except PersresError as error:
            raise PersresError(
                f"{where} changes {self.metadata.targets[:40]!r}, which this extension does not know: update it."
            ) from error
        if self.embeddings and EMBEDDING not in parts_of(rule):
            raise PersresError(
                f"{where} has an embedding, which is none of its targets, {rule}: it was not made rightly."
            )
        word = self.metadata.identifier
        if EMBEDDING in parts_of(rule) and not any(key_of(encoder, word) in self.embeddings for encoder in ENCODERS):
            raise PersresError(f"{where} lacks the embedding that its targets, {rule}, name: it was not made rightly.")
        there = widths(unet, rule)
        for path, factors in self.factors.items():
            if path not in there:
                if path in widths(unet, EVERY):
                    raise PersresError(
                        f"{where} changes {path}, which is none of its targets, {rule}: it was not made rightly."
                    )
                raise PersresError(
                    f"{where} was trained for another model (it changes {path}, which this UNet lacks): {advice}."
                )
            trained = (factors.down.shape[1], factors.up.shape[0])
            if trained != there[path]:
                raise PersresError(
                    f"{where} was trained for another model (width {_width(trained)} at {path}, "
                    f"this UNet has {_width(there[path])}): {advice}."
                )
        lacking = next((path for path in there if path not in self.factors), None)
        if lacking and not self.partial:
            raise PersresError(
                f"{where} was trained for another model (it has nothing for this UNet's {lacking}): {advice}."
            )

    def save(self, path: str | os.PathLike[str], dtype: torch.dtype = torch.float16) -> None:
        """Write the file, or raise PersresError and leave an older one of that name as it is.

        Nothing is written that `load` would refuse.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise PersresError(f"{path} is not written: a residual's name ends in .safetensors.")
        if dtype not in FLOATS.values():
            raise PersresError(f"{path} is not written: a residual is kept in floating point, not in {dtype}.")
        tensors = {}
        for name, tensor in self._tensors().items():
            # a copy each, since safetensors refuses tensors that share memory
            tensors[name] = tensor.detach().to("cpu", dtype, copy=True).contiguous()
            if not tensors[name].isfinite().all():
                why = f"too large for {dtype}" if tensor.isfinite().all() else "not finite (the training diverged)"
                raise PersresError(f"{path} is not written: values of {name} are {why}.")
        try:
            _check_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()})
            for name, tensor in tensors.items():
                _check_values(name, tensor)
            self._check_changes()
            data = safetensors.torch.save(tensors, self.metadata.to_strings())
        except (SafetensorError, ValueError) as error:  # ValueError: ours, or text that is no UTF-8
            raise PersresError(f"{path} is not written: {first_line(error)}.") from error
        if len(data) > MAX_FILE:
            raise PersresError(f"{path} is not written: it would be larger than {MAX_FILE >> 20} MiB.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, data)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise PersresError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}.") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Residual:
        """Read a file of any origin, as fp32 on the CPU. Raises PersresError: one sentence that names it."""
        with _open(path) as (file, metadata):
            places, targets = _places(file)
            tensors = {}
            for name, place in places.items():
                tensors[name] = file.tensor(place).to(torch.float32)
                _check_values(name, tensors[name])
            file.check_unchanged()
            residual = cls._of(tensors, targets, metadata)
            residual._check_changes()
        return residual

    @classmethod
    def outline(cls, path: str | os.PathLike[str]) -> Residual:
        """The file as `load` gives it, but for the values, which are not read: enough for `check`."""
        with _open(path) as (file, metadata):
            places, targets = _places(file)
            of_shape = {shape: torch.empty(shape, device="meta") for shape in {p.shape for p in places.values()}}
            tensors = {name: of_shape[place.shape] for name, place in places.items()}
        return cls._of(tensors, targets, metadata)

    @classmethod
    def _of(cls, tensors: dict[str, torch.Tensor], targets: list[str], metadata: Metadata) -> Residual:
        factors = {name: Factors(tensors.pop(f"{name}.down"), tensors.pop(f"{name}.up")) for name in targets}
        words = {one_form(name.removeprefix(_EMBEDDING)): part for name, part in tensors.items()}
        return cls(factors, metadata, words)

    @staticmethod
    def read_metadata(path: str | os.PathLike[str]) -> Metadata:
        """What the file's header says; its tensors are not read. Raises PersresError as `load` does."""
        with _open(path) as (file, metadata):
            file.places()  # a file that was cut short is none
            return metadata

    def _check_changes(self) -> None:
        """PersresError with a reason alone where up · down may change a weight absurdly."""
        for target, factors in self.factors.items():
            largest = (factors.up.abs().amax(0).double() * factors.down.abs().amax(1).double()).sum().item()
            if largest > MAX_CHANGE:
                raise PersresError(
                    f"it would change weights of {target} by up to {largest:.1g}, as after a training that diverged"
                )

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors = {_EMBEDDING + name: tensor for name, tensor in self.embeddings.items()}
        for target, factors in self.factors.items():
            tensors |= {f"{target}.down": factors.down, f"{target}.up": factors.up}
        return tensors


def concept_of(path: str | os.PathLike[str]) -> str:
    """The concept's own name as a file's header says it, and little else is looked at; "" where it cannot be read."""
    try:
        with TensorFile(path, MAX_FILE) as file:
            strings = file.strings
        return check_concept(strings.get("concept", "")) if strings.get("format") == FORMAT else ""
    except (PersresError, OSError):
        return ""


def family_misfit(made_for: str, family: str) -> str | None:
    """A sentence where a residual was made for another family than the model's; None where it was not, or where one of
    the two is not known (""). Files of other programs may spell a family in other letters."""
    if not made_for or not family or made_for.strip().casefold() == family.casefold():
        return None
    return f"It was made for {made_for[:20]}, and the loaded model is {family}."


def file_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file in hex; its first 10 digits are the short hash."""
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise PersresError(f"{path} cannot be read: {error.strerror or error}.") from error
    return digest.hexdigest()


@contextlib.contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[tuple[TensorFile, Metadata]]:
    """The opened file and its metadata; every failure inside becomes a sentence that names the file."""
    try:
        with TensorFile(path, MAX_FILE) as file:
            if file.strings.get("format") != FORMAT:
                raise PersresError(f"it has no persres metadata and looks like {_likeness(file.names)}")
            yield file, Metadata.from_strings(file.strings)
    except (PersresError, OSError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise PersresError(f"{path} cannot be used as a residual: {reason}.") from error


def _likeness(names: list[str]) -> str:
    """What a safetensors file seems to be, by the names of its tensors."""
    kinds = {
        "a whole checkpoint": ("model.diffusion_model.",),
        "a LoRA": ("lora_", "lora.", "hada_", "lokr_", "oft_"),
        "a textual inversion embedding": ("emb_params", "clip_l", "clip_g"),
        "a VAE": ("decoder.", "post_quant_conv."),
    }
    for kind, marks in kinds.items():
        if any(mark in name for name in names for mark in marks):
            return kind
    return "something else than a residual"


def _places(file: TensorFile) -> tuple[dict[str, Place], list[str]]:
    """An opened file's tensors by name, unread, and its targets. Raises PersresError with a reason alone."""
    places = file.places()
    targets = _check_shapes({name: place.shape for name, place in places.items()})
    for name, place in places.items():
        if place.kind not in FLOATS:
            raise PersresError(f"{name} is stored as {readable(place.kind, 20)} and not in floating point")
    return places, targets


def _check_values(name: str, tensor: torch.Tensor) -> None:
    """PersresError with a reason alone for values that no model computes with."""
    largest = tensor.abs().max().item()  # NaN where there is one
    if not largest < float("inf"):
        raise PersresError(f"values of {name} are not finite")
    if largest > MAX_VALUE:
        raise PersresError(f"values of {name} are up to {largest:.1g}, which no model in fp16 can take")


def _check_shapes(shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """The targets among a file's tensors. Raises PersresError with a reason alone for the first wrong one."""
    targets: list[str] = []
    forms: dict[str, str] = {}
    for name, shape in shapes.items():
        if (other := forms.setdefault(one_form(name), name)) != name:
            raise PersresError(f"{name} stands in it twice, in two forms of Unicode ({ascii(other)}, {ascii(name)})")
        if max(shape, default=0) > MAX_SIDE:
            raise PersresError(f"{name} is of the absurd shape {shape}")
        if name.startswith(_EMBEDDING):
            if len(shape) not in (1, 2) or 0 in shape or (len(shape) == 2 and shape[0] > MAX_VECTORS):
                raise PersresError(f"{name} is of shape {shape}, not a vector or a few")
            continue
        target, _, side = name.rpartition(".")
        if not target or side not in ("down", "up"):
            raise PersresError(f"{name} is not a residual's tensor")
        other = f"{target}.{'up' if side == 'down' else 'down'}"
        if other not in shapes:
            raise PersresError(f"{name} comes without {other}")
        if len(shape) != 2:
            raise PersresError(f"{name} is of shape {shape}, not a matrix")
        if side == "down":
            targets.append(target)
    for target in targets:
        (rank, width_in), (width_out, rank_up) = shapes[f"{target}.down"], shapes[f"{target}.up"]
        if rank != rank_up:
            raise PersresError(f"{target} has rank {rank} in down and {rank_up} in up")
        if not 1 <= rank <= min(width_in, width_out):
            raise PersresError(f"{target} has rank {rank} where 1 to {min(width_in, width_out)} is possible")
    if not targets and not any(name.startswith(_EMBEDDING) for name in shapes):
        raise PersresError("it has no factors and no embedding")
    return targets


def _width(widths: tuple[int, int]) -> str:
    return str(widths[0]) if widths[0] == widths[1] else f"{widths[0]} to {widths[1]}"
