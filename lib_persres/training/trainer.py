"""One training, step by step: interruptible, resumable, with everything fixed computed once."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import torch

from .. import __version__
from ..errors import PersresError, first_line
from ..identifiers import check_identifier, choose_identifier
from ..names import one_form
from ..residual import Metadata, Residual
from ..targets import EMBEDDING, parts_of
from ..writing import replacing
from .computing import Computing
from .embedding import Embedding
from .finite import check_contexts, check_latents, not_finite
from .graph import Graph, recorded
from .host import Host
from .images import Photo
from .latents import encode_photos
from .low_rank import LowRank
from .maps import MapComparison
from .objective import draw_timesteps, noised
from .precision import check_precision
from .prior import ClassPictures
from .recipe import Recipe, Stage, alike
from .state import reason
from .step import Gradients, Rows
from .texts import CLASS, EMPTY, encode, prompts_of
from .whole import FORMS

STATE_VERSION = 2


CHANGED = {"recipe": "the recipe or one of its values, such as the steps", "image_hashes": "the photos"}
"""Facts of a training, in words."""


class Trainer:
    """Learns a residual; the same seed gives the same residual on CPU.

        with trainer:
            while not trainer.finished:
                trainer.step()
        trainer.residual().save(path)

    Within `with` the UNet is frozen and carries what learns, which acts in `step` alone; what was there comes back at
    its end, and it may be entered again. `save_state` and `load_state` continue a training in another process, to the
    same result.

    class_photos: other things of the class, for a recipe with prior rows; None: the model draws them itself, see
    `draw_class`.
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
        class_photos: Sequence[Photo] | None = None,
    ):
        check_precision(precision)
        if not photos:
            raise PersresError(f'The concept "{concept}" has no photos to learn from: give 3 to 10.')
        if not macro_class.strip():
            raise PersresError(f'The concept "{concept}" needs a macro class, the plain noun for it, such as "dog".')
        if identifier is None:
            identifier = choose_identifier(host.encode_text)
        identifier = one_form(identifier)
        check_identifier(identifier, host.encode_text)
        self.host, self.recipe, self.micro_batch, self.shrink = host, recipe, micro_batch, shrink
        self.losses: list[float] = []
        self.notes: list[str] = []
        self._facts = Metadata(
            concept=concept,
            identifier=identifier,
            macro_class=macro_class,
            base_family=host.family,
            base_hash=host.hash,  # read now: a checkpoint that is moved meanwhile must not cost the training
            targets=recipe.targets,
            rank=recipe.rank,
            recipe=recipe.changed(resolution=resolution).to_dict(),
            seed=seed,
            library_version=__version__,
            image_hashes=[photo.sha256 for photo in photos],
        )
        self._generator = torch.Generator().manual_seed(seed)
        self._latents = encode_photos(host, photos, recipe, resolution, seed)
        check_latents(self._latents.mean, self._latents.std)
        self._embedding = None
        if EMBEDDING in parts_of(recipe.targets):
            self._embedding = Embedding(host, identifier, macro_class, recipe.start)
        self._texts = encode(host, recipe, self._facts, self._embedding)
        check_contexts(self._texts.contexts)
        self._prior = self._pictures = None
        if recipe.keeps_class and class_photos:
            views = replace(recipe, crops=0, flips=False)
            self._prior = encode_photos(host, class_photos, views, resolution, seed)
        elif recipe.keeps_class:
            shape = tuple(self._latents.mean.shape[1:])
            self._pictures = ClassPictures(recipe.class_images, shape, seed, host.device)
        if recipe.form == "low-rank":
            start = recipe.targets, recipe.rank, self._generator
            self._learned = LowRank(host.unet, *start, host.device, recipe.mask)
        else:
            self._learned = FORMS[recipe.form](host.unet, recipe.targets, recipe.rank, host.device)
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
        self._optimizer: tuple[int, torch.optim.Adam] | None = None
        self._resumed: tuple[int, dict] | None = None
        self._gradients: tuple[int, Gradients] | None = None
        self._weights: list[torch.nn.Parameter] = []
        self._graph: Graph | None = None
        self._graph_tried = False
        self._exit: contextlib.ExitStack | None = None
        self._stage_exit = contextlib.ExitStack()

    # -- how far it is

    @property
    def done(self) -> int:
        """Steps made."""
        return len(self.losses)

    @property
    def finished(self) -> bool:
        return self.done >= self.recipe.steps

    @property
    def stage(self) -> tuple[int, int, Stage]:
        """See `Recipe.at`."""
        return self.recipe.at(self.done)

    @property
    def to_draw(self) -> int:
        """Pictures of the class that the model has to draw before the first step."""
        return 0 if self._pictures is None else self._pictures.missing

    # -- learning

    def __enter__(self) -> Trainer:
        with contextlib.ExitStack() as stack:
            computing = stack.enter_context(self._computing)
            # fp16 gradients of a small loss underflow: scaled up before, down after the backward pass
            self._loss_scale = 1024.0 if computing.dtype == torch.float16 else 1.0
            stack.callback(self._leave_stage)
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_) -> None:
        self._exit.close()
        self._exit = None

    def draw_class(self, progress: Callable[[int, int], None] = lambda drawn, count: None) -> None:
        """Have the model draw the class's pictures that are missing; the first step does it otherwise.

        progress: see `ClassPictures.draw`. What was drawn when it raised is kept, in a saved state, too.
        """
        self._refuse_outside()
        if not self.to_draw:
            return
        with self._computing.step():
            self._pictures.draw(self.host, self._texts.contexts.detach()[[CLASS, EMPTY]], progress)
        self._prior = self._pictures.latents()
        count = self._pictures.count
        self.notes.append(f"The model drew {count} pictures of its own {self._facts.macro_class} to keep the class.")

    def _refuse_outside(self) -> None:
        if self._exit is None:
            raise PersresError("A trainer works only within its own `with`.")

    def _enter_stage(self, index: int, stage: Stage) -> None:
        """What the stage learns learns, what it does not is fixed."""
        self._leave_stage()
        with contextlib.ExitStack() as stack:
            weights = self._learned.weights(stage.targets)
            stack.enter_context(self._learned.attached())
            maps = None
            if stage.compares_maps:
                maps = MapComparison(self.host.unet, self._texts.tokens, self._texts.length, stage)
                stack.enter_context(maps.attached())  # last, so that the maps are of what the model computes now
            self._stage_exit = stack.pop_all()
        groups = [{"params": weights, "lr": stage.learning_rate}] if weights else []
        if self._embedding is not None:
            self._encode_again()
            if stage.learns_embedding:
                groups.append({"params": [self._embedding.vector], "lr": stage.embedding_rate or stage.learning_rate})
        self._weights = [weight for group in groups for weight in group["params"]]
        if self._optimizer is None or self._optimizer[0] != index:
            self._optimizer = index, torch.optim.Adam(groups)
            if self._resumed is not None and self._resumed[0] == index:
                self._optimizer[1].load_state_dict(self._resumed[1])
            self._resumed = None
        rows = Rows(stage, self.host.device)
        made = Gradients(self.host.unet, self._learned, self._texts, rows, self._loss_scale, maps)
        self._gradients = index, made

    def _leave_stage(self) -> None:
        self._gradients, self._graph, self._graph_tried = None, None, False
        self._stage_exit.close()

    def _encode_again(self) -> None:
        """The texts with the embedding as it is now, without a graph."""
        contexts = self._embedding.encode(prompts_of(self.recipe, self._facts))
        self._texts.set(contexts.detach().to(self.host.device))

    def step(self) -> float:
        """One step of the optimizer; its loss. Raises PersresError where the loss is no longer finite."""
        self._refuse_outside()
        if self.finished:
            raise PersresError(f"All {self.recipe.steps} steps are done.")
        self.draw_class()
        number, step, stage = self.stage
        index = number - 1
        if self._gradients is None or self._gradients[0] != index:
            self._enter_stage(index, stage)
        optimizer = self._optimizer[1]
        batch = self._draw(stage)
        while True:
            try:
                with self._computing.step():
                    loss = self._compute(self._gradients[1], stage, batch)
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
            raise not_finite(self.host.unet, self.done, step + 1, stage.learning_rate)
        for group in optimizer.param_groups:
            group.setdefault("whole_lr", group["lr"])
            group["lr"] = group["whole_lr"] * (1 - step / stage.steps if stage.decay else 1)
        optimizer.step()
        self.losses.append(loss)
        return loss

    def _draw(self, stage: Stage) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """z_t, t and the noise of the batch's rows, those of the class and those with the empty prompt."""
        z = self._latents.draw(stage.batch + stage.keep, self._generator)
        if stage.prior:
            prior = self._prior.draw(stage.prior, self._generator)
            z = torch.cat([z[: stage.batch], prior, z[stage.batch :]])
        t = draw_timesteps(len(z), len(self._alphas), stage.t_power, self._generator).to(self.host.device)
        noise = torch.randn(z.shape, generator=self._generator).to(self.host.device)
        return noised(z, t, noise, self._alphas), t, noise

    def _compute(self, gradients: Gradients, stage: Stage, batch: tuple[torch.Tensor, ...]) -> float:
        """The loss of the batch; its gradients are in the weights' `grad`."""
        rows = len(batch[0])
        size = min(self.micro_batch or rows, rows)
        # the graph of an embedding leads through the text encoder, too
        whole = size == rows and not stage.learns_embedding
        if whole and not self._graph_tried and self.host.device.type == "cuda" and self.host.stays:
            self._graph_tried = True
            self._graph = recorded(lambda *b: gradients(slice(0, rows), *b), batch, self._weights, self.notes)
        if whole and self._graph:
            loss = self._graph(*batch).item()
        else:
            for weight in self._weights:
                weight.grad = None
            if stage.learns_embedding:
                contexts = self._embedding.encode(prompts_of(self.recipe, self._facts), learning=True)
                self._texts.set(contexts.detach().to(self.host.device).requires_grad_())
            parts = [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
            loss = sum(gradients(part, *(tensor[part] for tensor in batch)).item() for part in parts)
            if stage.learns_embedding:
                self._embedding.backward(contexts, self._texts.contexts.grad)
        for weight in self._weights:
            weight.grad.div_(self._loss_scale)
        return loss

    # -- what is learned

    def residual(self) -> Residual:
        """What was learned until now, on the CPU; its metadata say after how many steps."""
        factors, truncation = self._learned.factors()
        facts = {"steps": self.done, "loss": _summary(self.losses), "created": _moment(), "truncation": truncation}
        embeddings = {}
        if self._embedding is not None:
            embeddings[self._facts.identifier] = self._embedding.vector.detach().to("cpu", copy=True)
        return Residual(factors, replace(self._facts, **facts), embeddings)

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Everything learned."""
        own = {} if self._embedding is None else {EMBEDDING: self._embedding.vector}
        return {**self._learned.tensors(), **own}

    def save_state(self, path: Path) -> None:
        """Write all that `load_state` needs to continue; the file is whole or not there."""
        optimizer = self._resumed
        if self._optimizer is not None:
            optimizer = self._optimizer[0], self._optimizer[1].state_dict()
        state = {
            "version": STATE_VERSION,
            "facts": self._facts.to_strings(),
            "learned": {name: tensor.detach() for name, tensor in self._tensors().items()},
            "prior": self._pictures and self._pictures.made,
            "optimizer": optimizer,
            "generator": self._generator.get_state(),
            "losses": self.losses,
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                torch.save(state, file)
        except (OSError, RuntimeError) as error:  # RuntimeError: what torch makes of a full disk
            raise PersresError(f"{path} cannot be written: {first_line(error)}.") from error

    def load_state(self, path: Path) -> None:
        """Continue where `save_state` was called. PersresError where the file is of another training."""
        try:
            # not torch.load, which the WebUI replaces by one that refuses what newer releases of torch write
            state = torch.serialization.load(path, map_location="cpu", weights_only=True)
            if state["version"] != STATE_VERSION:
                raise PersresError(f"it is of version {state['version']}, and this extension knows {STATE_VERSION}")
            theirs, ours = dict(state["facts"]), self._facts.to_strings()
            if alike(json.loads(theirs["recipe"]), self._facts.recipe):
                theirs["recipe"] = ours["recipe"]
            free = ("created", "library_version")
            changed = [name for name in ours if name not in free and ours[name] != theirs.get(name)]
            if changed:
                named = ", ".join(CHANGED.get(name, name.replace("_", " ")) for name in changed)
                raise PersresError(
                    f"it is of another training: changed since are {named}; give what it was begun with, or begin anew"
                )
            with torch.no_grad():
                for name, tensor in self._tensors().items():
                    tensor.copy_(state["learned"][name])
            if self._pictures is not None and state["prior"] is not None:
                self._pictures.made = state["prior"].to(self.host.device)
                self._prior = None if self._pictures.missing else self._pictures.latents()
            self._generator.set_state(state["generator"])
            self.losses = list(state["losses"])
            self._optimizer, self._resumed = None, state["optimizer"]
        except Exception as error:  # what torch.load raises on a damaged file is of no one family
            raise PersresError(f"{path} cannot be continued: {reason(error)}.") from error


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
