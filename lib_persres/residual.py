"""The residual of a concept: a low-rank ΔW for each target module, and its file.

The file is a .safetensors: two tensors for each target, `<target>.down` and `<target>.up`, where <target> is
the module's own path in the UNet, optionally `embedding.<name>`, and Metadata in the header.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from .errors import PersresError, first_line
from .metadata import FORMAT, Metadata
from .targets import EMBEDDING, EVERY, canonical, parts_of
from .unet import find_targets

MAX_FILE = 1 << 30
"""Bytes; SDXL's residual at full rank, the largest that makes sense, is a quarter of it."""
MAX_SIDE = 65536
STALE = 3600
"""Seconds after which a half-written file is nobody's any more."""

_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
_EMBEDDING = "embedding."


def rank_of(rule: str | float, width: int) -> int:
    """The rank r for a target of width m: "0.05m" is round(0.05·m) and at least 1, "8" or 8 is 8; at most m.

    A number below 1 is a fraction as well: 0.05 means "0.05m".
    """
    number = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*(m?)", str(rule).strip())
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
    these. embeddings: what was learned for a token, by its word: for the identifier a vector (d,) or a few (n, d).
    """

    factors: dict[str, Factors]
    metadata: Metadata = field(default_factory=Metadata)
    embeddings: dict[str, torch.Tensor] = field(default_factory=dict)

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

    def check(self, unet: nn.Module, where: str = "") -> None:
        """Raise PersresError unless the factors fit the UNet: those that metadata.targets picks, and no others.

        where: what the sentence calls the residual, e.g. its file; the concept's name if empty.
        """
        where = where or f"The residual of {self.metadata.concept or 'an unnamed concept'}"
        advice = f"load the {self.metadata.base_family} model that it was made on, or one derived from it"
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
        if EMBEDDING in parts_of(rule) and self.metadata.identifier not in self.embeddings:
            raise PersresError(f"{where} lacks the embedding that its targets, {rule}, name: it was not made rightly.")
        there = {target.path: target.widths for target in find_targets(unet, rule)}
        for path, factors in self.factors.items():
            if path not in there:
                if any(target.path == path for target in find_targets(unet, EVERY)):
                    raise PersresError(
                        f"{where} changes {path}, which is none of its targets, {rule}: it was not made rightly."
                    )
                raise PersresError(
                    f"{where} was trained for another model (it changes {path}, "
                    f"which this UNet lacks): {advice}."
                )
            trained = (factors.down.shape[1], factors.up.shape[0])
            if trained != there[path]:
                raise PersresError(
                    f"{where} was trained for another model (width {_width(trained)} at {path}, "
                    f"this UNet has {_width(there[path])}): {advice}."
                )
        lacking = next((path for path in there if path not in self.factors), None)
        if lacking:
            raise PersresError(
                f"{where} was trained for another model (it has nothing for this UNet's {lacking}): {advice}."
            )

    def lag_problem(self, name: str) -> str | None:
        """A sentence where LAG can confine nothing of it; None where it can."""
        parts = parts_of(self.metadata.targets)
        if "proj_out" in parts:
            return None
        if EVERY in parts:  # proj_out, too, but that is little of it
            return f"LAG cannot confine {name}, which changes the whole UNet: it acts everywhere."
        return f"LAG cannot confine {name}, which changes {' and '.join(parts)}, not proj_out: it acts everywhere."

    def save(self, path: str | os.PathLike, dtype: torch.dtype = torch.float16) -> None:
        """Write the file, or raise PersresError and leave an older one of that name as it is.

        Nothing is written that `load` would refuse.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise PersresError(f"{path} is not written: a residual's name ends in .safetensors.")
        if dtype not in _DTYPES.values():
            raise PersresError(
                f"{path} is not written: a residual is kept in floating point, not in {dtype}."
            )
        tensors = {}
        for name, tensor in self._tensors().items():
            # a copy each, since safetensors refuses tensors that share memory
            tensors[name] = tensor.detach().to("cpu", dtype, copy=True).contiguous()
            if not tensors[name].isfinite().all():
                why = (
                    f"too large for {dtype}"
                    if tensor.isfinite().all()
                    else "not finite (the training diverged)"
                )
                raise PersresError(f"{path} is not written: values of {name} are {why}.")
        try:
            _check_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()})
            data = safetensors.torch.save(tensors, self.metadata.to_strings())
        except (SafetensorError, ValueError) as error:  # ValueError: ours, or text that is no UTF-8
            raise PersresError(f"{path} is not written: {first_line(error)}.") from error
        if len(data) > MAX_FILE:
            raise PersresError(f"{path} is not written: it would be larger than {MAX_FILE >> 20} MiB.")
        _write(path, data)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Residual:
        """Read a file of any origin, as fp32 on the CPU. Raises PersresError: one sentence that names it."""
        with _open(path) as (file, metadata):
            slices, targets = _slices(file)
            tensors = {}
            for name in slices:
                # a copy, never the file's memory map: the file may be replaced while the residual is in use
                tensors[name] = file.get_tensor(name).to(torch.float32, copy=True)
                if not tensors[name].isfinite().all():
                    raise PersresError(f"values of {name} are not finite")
        return cls._of(tensors, targets, metadata)

    @classmethod
    def outline(cls, path: str | os.PathLike) -> Residual:
        """The file as `load` gives it, but for the values, which are not read: enough for `check`."""
        with _open(path) as (file, metadata):
            slices, targets = _slices(file)
            tensors = {name: torch.empty(part.get_shape(), device="meta") for name, part in slices.items()}
        return cls._of(tensors, targets, metadata)

    @classmethod
    def _of(cls, tensors: dict[str, torch.Tensor], targets: list[str], metadata: Metadata) -> Residual:
        factors = {name: Factors(tensors.pop(f"{name}.down"), tensors.pop(f"{name}.up")) for name in targets}
        return cls(factors, metadata, {name.removeprefix(_EMBEDDING): part for name, part in tensors.items()})

    @staticmethod
    def read_metadata(path: str | os.PathLike) -> Metadata:
        """What the file's header says; its tensors are not read. Raises PersresError as `load` does."""
        with _open(path) as (_, metadata):
            return metadata

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors = {_EMBEDDING + name: tensor for name, tensor in self.embeddings.items()}
        for target, factors in self.factors.items():
            tensors |= {f"{target}.down": factors.down, f"{target}.up": factors.up}
        return tensors


def file_hash(path: str | os.PathLike) -> str:
    """SHA-256 of a file in hex; its first 10 digits are the short hash."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise PersresError(f"{path} cannot be read: {error.strerror or error}.") from error
    return digest.hexdigest()


@contextlib.contextmanager
def _open(path: str | os.PathLike) -> Iterator[tuple]:
    """The opened file and its metadata; every failure inside becomes a sentence that names the file."""
    path = Path(path)
    try:
        if not path.is_file():
            raise PersresError("it is a folder" if path.is_dir() else "there is no such file")
        if path.stat().st_size > MAX_FILE:
            raise PersresError(f"it is larger than {MAX_FILE >> 20} MiB")
        try:
            file = safe_open(path, framework="pt", device="cpu")
        except (SafetensorError, ValueError) as error:
            raise PersresError(_diagnose(path, error)) from error
        with file:
            strings = file.metadata() or {}
            if strings.get("format") != FORMAT:
                raise PersresError(
                    f"it has no persres metadata and looks like {_likeness(list(file.keys()))}"
                )
            yield file, Metadata.from_strings(strings)
    except (PersresError, SafetensorError, OSError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise PersresError(f"{path} cannot be used as a residual: {reason}.") from error


def _diagnose(path: Path, error: Exception) -> str:
    """Why safetensors refuses a file."""
    with open(path, "rb") as file:
        head = file.read(9)
    if head[8:] != b"{":
        # only now: a sound file may begin with these bytes too, which are then the length of its header
        if head.startswith((b"\x80", b"PK")):
            return "it is a pickle (.ckpt, .pt), which can run code when opened, and only safetensors is read"
        return "it is not a safetensors file"
    return f"it is damaged or was cut short ({first_line(error)}), copy or download it again"


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


def _slices(file) -> tuple[dict, list[str]]:
    """An opened file's tensors by name, unread, and its targets. Raises PersresError with a reason alone."""
    slices = {name: file.get_slice(name) for name in sorted(file.keys())}
    targets = _check_shapes({name: tuple(part.get_shape()) for name, part in slices.items()})
    for name, part in slices.items():
        if part.get_dtype() not in _DTYPES:
            raise PersresError(f"{name} is stored as {part.get_dtype()} and not in floating point")
    return slices, targets


def _check_shapes(shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """The targets among a file's tensors. Raises PersresError with a reason alone for the first wrong one."""
    targets = []
    for name, shape in shapes.items():
        if max(shape, default=0) > MAX_SIDE:
            raise PersresError(f"{name} is of the absurd shape {shape}")
        if name.startswith(_EMBEDDING):
            if len(shape) not in (1, 2) or 0 in shape:
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


def _write(path: Path, data: bytes) -> None:
    """Replace the file by `data` in one step."""
    # A name that no listing of *.safetensors shows, and short, since names have a limit.
    partial = path.with_name(f".{secrets.token_hex(6)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        try:
            with open(partial, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave the new name on an empty file
            os.replace(partial, path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise PersresError(
            f"{path} cannot be written: {getattr(error, 'strerror', None) or error}."
        ) from error


def _sweep(folder: Path) -> None:
    """Remove what a killed process left of its writing; what is younger may be another's at work."""
    for partial in folder.glob(f".{'[0-9a-f]' * 12}.partial"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > STALE:
                partial.unlink()


def _width(widths: tuple[int, int]) -> str:
    return str(widths[0]) if widths[0] == widths[1] else f"{widths[0]} to {widths[1]}"
