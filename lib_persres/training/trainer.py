"""One training, step by step: interruptible, resumable, with everything fixed computed once."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import torch

from .. import __version__
from ..branch import Branches
from ..errors import PersresError, first_line
from ..prompt import check_identifier, choose_identifier, find_concept_tokens
from ..residual import Factors, Metadata, Residual
from .computing import Computing
from .graph import Graph, recorded
from .host import Host
from .images import Photo
from .latents import encode_photos
from .objective import draw_timesteps, noised
from .precision import check_precision
from .recipes import Recipe, Stage
from .step import Gradients, Rows
from .texts import Texts

STATE_VERSION = 1


class Trainer:
    """Learns a residual; the same seed gives the same residual on CPU.

        with trainer:
            while not trainer.finished:
                trainer.step()
        trainer.residual().save(path)

    Within `with` the UNet is frozen and carries the branch, which acts in `step` alone; what was there comes back at
    its end, and it may be entered again. `save_state` and `load_state` continue a training in another process, to the
    same result.

    micro_batch: so many rows go through the UNet at a time, their gradients are added up; None: all. shrink: where the
    memory is not enough, halve it instead of giving up. precision: a name of `precision.PRECISIONS`, what the UNet
    computes in; None: as its weights are. checkpointing: keep less for the backward pass and compute it again.

    notes: sentences for the user, on what did not go the usual way.
    """

    def __init__(
        self,
        host: Host,
        photos: Sequence[Photo],
        concept: str,
        macro_class: str,
        recipe: Recipe,
        *,
        resolution: int,
        seed: int = 0,
        identifier: str | None = None,
        micro_batch: int | None = None,
        shrink: bool = False,
        precision: str | None = None,
        checkpointing: bool = False,
    ):
        check_precision(precision)
        if not photos:
            raise PersresError(f'The concept "{concept}" has no photos to learn from: give 3 to 10.')
        if not macro_class.strip():
            raise PersresError(f'The concept "{concept}" needs a macro class, the plain noun for it, such as "dog".')
        if identifier is None:
            identifier = choose_identifier(host.encode_text)
        check_identifier(identifier, host.encode_text)
        if len({(stage.targets, stage.rank) for stage in recipe.stages}) > 1:
            raise PersresError(f"The stages of recipe {recipe.name} must agree in targets and rank.")
        self.host, self.recipe, self.micro_batch, self.shrink = host, recipe, micro_batch, shrink
        self.losses: list[float] = []
        self.notes: list[str] = []
        self._facts = Metadata(
            concept=concept,
            identifier=identifier,
            macro_class=macro_class,
            base_family=host.family,
            base_hash=host.hash,  # read now: a checkpoint that is moved meanwhile must not cost the training
            targets=recipe.stages[0].targets,
            rank=str(recipe.stages[0].rank),
            recipe=recipe.changed(resolution=resolution).to_dict(),
            seed=seed,
            library_version=__version__,
            image_hashes=[photo.sha256 for photo in photos],
        )
        self._generator = torch.Generator().manual_seed(seed)
        self._latents = encode_photos(host, photos, recipe, resolution, seed)
        self._texts = self._encode_prompts(recipe.prompt(identifier, macro_class))
        first = recipe.stages[0]
        start = Residual.initialise(host.unet, first.rank, self._generator, targets=first.targets)
        self._factors = {
            name: Factors(*(torch.nn.Parameter(part.to(host.device)) for part in (f.down, f.up)))
            for name, f in start.factors.items()
        }
        self._weights = [weight for f in self._factors.values() for weight in (f.down, f.up)]
        self._alphas = host.alphas_cumprod.to(host.device)
        z, t = self._latents.mean[:1], torch.tensor([len(self._alphas) // 2], device=host.device)
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).to(z)
        self._computing = Computing(
            host,
            self._texts,
            noised(z, t, noise, self._alphas),
            t,
            precision=precision,
            checkpointing=checkpointing,
            notes=self.notes,
        )
        self._branches = Branches(host.unet, [Residual(self._factors)])
        self._optimizer: tuple[int, torch.optim.Adam] | None = None
        self._gradients: tuple[int, Gradients] | None = None
        self._graph: Graph | None = None
        self._graph_tried = False
        self._exit: contextlib.ExitStack | None = None

    def _encode_prompts(self, prompt: str) -> Texts:
        facts, host = self._facts, self.host
        contexts, ids = host.encode_prompts([prompt, ""])
        found = find_concept_tokens(
            ids[0].tolist(),
            host.encode_text(facts.identifier),
            host.encode_text(facts.macro_class),
            identifier=facts.identifier,
            macro_class=facts.macro_class,
            concept=facts.concept,
        )
        # a template without the class is one's choice: LAG then goes by the identifier alone
        chosen = found.identifier_found and "{macro_class}" not in self.recipe.template
        if found.problem and not chosen and any(stage.localized for stage in self.recipe.stages):
            raise PersresError(f"This recipe learns where LAG sees the concept: {found.problem}")
        return Texts(contexts.to(host.device), found)

    # -- how far it is

    @property
    def done(self) -> int:
        """Steps made."""
        return len(self.losses)

    @property
    def finished(self) -> bool:
        return self.done >= self.recipe.steps

    def _position(self) -> tuple[int, int, Stage]:
        """The next step's stage: its index, the steps of it that are done, and itself."""
        step = self.done
        for index, stage in enumerate(self.recipe.stages):
            if step < stage.steps:
                return index, step, stage
            step -= stage.steps
        raise PersresError(f"All {self.recipe.steps} steps are done.")

    # -- learning

    def __enter__(self) -> Trainer:
        with contextlib.ExitStack() as stack:
            computing = stack.enter_context(self._computing)
            # fp16 gradients of a small loss underflow: scaled up before, down after the backward pass
            self._loss_scale = 1024.0 if computing.dtype == torch.float16 else 1.0
            stack.enter_context(self._branches)
            stack.callback(self._forget)
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_) -> None:
        self._exit.close()
        self._exit = None

    def _forget(self) -> None:
        self._gradients, self._graph, self._graph_tried = None, None, False

    def step(self) -> float:
        """One step of the optimizer; its loss. Raises PersresError where the loss is no longer finite."""
        if self._exit is None:
            raise PersresError("A trainer steps only within its own `with`.")
        index, step, stage = self._position()
        if self._optimizer is None or self._optimizer[0] != index:
            self._optimizer = index, torch.optim.Adam(self._weights, lr=stage.learning_rate)
        if self._gradients is None or self._gradients[0] != index:
            self._forget()
            rows = Rows(stage, self.host.device)
            self._gradients = index, Gradients(self.host.unet, self._branches, self._texts, rows, self._loss_scale)
        optimizer = self._optimizer[1]
        batch = self._draw(stage)
        while True:
            try:
                with self._computing.step():
                    loss = self._compute(self._gradients[1], batch)
                break
            except torch.cuda.OutOfMemoryError as error:
                rows = min(self.micro_batch or len(batch[0]), len(batch[0]))
                if not self.shrink or rows == 1:
                    raise PersresError(
                        f"There is not enough memory for {rows} row{'s' * (rows > 1)} of this resolution at a time: "
                        "lower the micro-batch, then the resolution or the rank, or switch gradient checkpointing on."
                    ) from error
            # not within except: its traceback would keep the memory
            self.micro_batch = rows // 2
            self.notes.append(
                f"The memory was short: the rows of a batch go through the model {self.micro_batch} at a time."
            )
            self._graph, self._graph_tried = None, False
            torch.cuda.empty_cache()
        if not math.isfinite(loss):
            raise PersresError(
                f"The loss is no longer finite at step {step + 1} of the stage: lower the learning rate "
                f"({stage.learning_rate})."
            )
        rate = stage.learning_rate * (1 - step / stage.steps if stage.decay else 1)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        self.losses.append(loss)
        return loss

    def _draw(self, stage: Stage) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """z_t, t and the noise of the batch's rows and of those with the empty prompt."""
        rows = stage.batch + stage.keep
        z = self._latents.draw(rows, self._generator)
        t = draw_timesteps(rows, len(self._alphas), stage.t_power, self._generator).to(self.host.device)
        noise = torch.randn(z.shape, generator=self._generator).to(self.host.device)
        return noised(z, t, noise, self._alphas), t, noise

    def _compute(self, gradients: Gradients, batch: tuple[torch.Tensor, ...]) -> float:
        """The loss of the batch; its gradients are in the factors' `grad`."""
        rows = len(batch[0])
        size = min(self.micro_batch or rows, rows)
        whole = size == rows
        if whole and not self._graph_tried and self.host.device.type == "cuda" and self.host.stays:
            self._graph_tried = True
            self._graph = recorded(lambda *b: gradients(slice(0, rows), *b), batch, self._weights, self.notes)
        if whole and self._graph:
            loss = self._graph(*batch).item()
        else:
            for weight in self._weights:
                weight.grad = None
            parts = [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
            loss = sum(gradients(part, *(tensor[part] for tensor in batch)).item() for part in parts)
        for weight in self._weights:
            weight.grad.div_(self._loss_scale)
        return loss

    # -- what is learned

    def residual(self) -> Residual:
        """What was learned until now, on the CPU; its metadata say after how many steps."""
        factors = {
            name: Factors(*(part.detach().to("cpu", copy=True) for part in (f.down, f.up)))
            for name, f in self._factors.items()
        }
        metadata = replace(self._facts, steps=self.done, loss=_summary(self.losses), created=_moment())
        return Residual(factors, metadata)

    def save_state(self, path: Path) -> None:
        """Write all that `load_state` needs to continue; the file is whole or not there."""
        optimizer = self._optimizer and (self._optimizer[0], self._optimizer[1].state_dict())
        state = {
            "version": STATE_VERSION,
            "facts": self._facts.to_strings(),
            "factors": {name: (f.down.detach(), f.up.detach()) for name, f in self._factors.items()},
            "optimizer": optimizer,
            "generator": self._generator.get_state(),
            "losses": self.losses,
        }
        partial = path.with_name(f".{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(partial, "wb") as file:
                    torch.save(state, file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
        except (OSError, RuntimeError) as error:  # RuntimeError: what torch makes of a full disk
            raise PersresError(f"{path} cannot be written: {first_line(error)}.") from error

    def load_state(self, path: Path) -> None:
        """Continue where `save_state` was called. PersresError where the file is of another training."""
        try:
            # not torch.load, which the WebUI replaces by one that refuses what newer releases of torch write
            state = torch.serialization.load(path, map_location="cpu", weights_only=True)
            if state["version"] != STATE_VERSION:
                raise PersresError(f"it is of version {state['version']}, and this extension knows {STATE_VERSION}")
            theirs, ours = state["facts"], self._facts.to_strings()
            free = ("created", "library_version")
            changed = [name for name in ours if name not in free and ours[name] != theirs.get(name)]
            if changed:
                raise PersresError(f"it is of another training ({', '.join(changed)} differ)")
            with torch.no_grad():
                for name, (down, up) in state["factors"].items():
                    self._factors[name].down.copy_(down)
                    self._factors[name].up.copy_(up)
            self._generator.set_state(state["generator"])
            self.losses = list(state["losses"])
            self._optimizer = None
            if state["optimizer"] is not None:
                index, adam = state["optimizer"]
                self._optimizer = index, torch.optim.Adam(self._weights)
                self._optimizer[1].load_state_dict(adam)
        except Exception as error:  # what torch.load raises on a damaged file is of no one family
            raise PersresError(f"{path} cannot be continued: {first_line(error)}.") from error


def _moment() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _summary(losses: list[float]) -> dict:
    """First and last tenth of the training, and the loss of up to 100 points in between for a curve."""
    if not losses:
        return {}
    tenth = max(1, len(losses) // 10)
    stride = max(1, math.ceil(len(losses) / 100))
    curve = [sum(losses[i : i + stride]) / len(losses[i : i + stride]) for i in range(0, len(losses), stride)]
    return {
        "first": sum(losses[:tenth]) / tenth,
        "last": sum(losses[-tenth:]) / tenth,
        "curve": [round(value, 5) for value in curve],
    }
