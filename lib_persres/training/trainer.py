"""One training, step by step: interruptible, resumable, with everything fixed computed once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..errors import PersresError
from ..identifiers import check_identifier, choose_identifier
from ..names import one_form
from ..residual import Metadata, Residual
from . import state as states
from .changes import make_learned
from .computing import Computing
from .execution import Execution
from .finite import check_conditioning, check_latents
from .host import Host
from .images import Photo
from .latents import Latents, encode_photos
from .losses import summary
from .maps import MapComparison
from .objective import noised
from .options import Running
from .precision import check_precision
from .prior import ClassPictures
from .recipe import Recipe, Stage
from .scaler import Scaler
from .step import Gradients, Step
from .texts import CLASS, EMPTY, encode, prompts_of


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
    running: the fields of `options.Running`, how it is computed.

    learned: all that learns. notes: sentences for the user, on what did not go the usual way.
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
        identifier: str | None = None,
        class_photos: Sequence[Photo] | None = None,
        **running: Any,
    ):
        run = Running(**running)
        check_precision(run.precision)
        if not photos:
            raise PersresError(f'The concept "{concept}" has no photos to learn from: give 3 to 10.')
        if not macro_class.strip():
            raise PersresError(f'The concept "{concept}" needs a macro class, the plain noun for it, such as "dog".')
        identifier = one_form(choose_identifier(host.encode_text) if identifier is None else identifier)
        check_identifier(identifier, host.encode_text)
        self.host, self.recipe, self.identifier, self.resolution = host, recipe, identifier, resolution
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
            seed=run.seed,
            library_version=__version__,
            image_hashes=[photo.sha256 for photo in photos],
        )
        self._generator = torch.Generator().manual_seed(run.seed)
        self._photos = encode_photos(host, photos, recipe, resolution, run.seed)
        check_latents(self._photos.mean, self._photos.std)
        prompts = prompts_of(recipe, self._facts)
        self.learned = make_learned(recipe, host, self._facts, prompts, resolution, self._generator)
        self._texts = encode(host, recipe, self._facts, resolution)
        self._begin_texts()
        check_conditioning(self._texts.conditioning)
        self._of_class: Latents | None = None
        self._pictures: ClassPictures | None = None
        if recipe.keeps_class and class_photos:
            self._of_class = encode_photos(
                host, class_photos, replace(recipe, crops=0, flips=False), resolution, run.seed
            )
        elif recipe.keeps_class:
            shape = tuple(self._photos.mean.shape[1:])
            self._pictures = ClassPictures(recipe.class_images, shape, run.seed, host.device)
        self._alphas = host.alphas_cumprod.to(host.device)
        self._computing = Computing(
            host,
            self._texts,
            *self._sample(),
            precision=run.precision or None,
            checkpointing=run.checkpointing,
            notes=self.notes,
        )
        self._execution = Execution(host, self._computing, run.micro_batch, run.shrink, self.notes)
        self._scaler = Scaler(self._computing.dtype == torch.float16, host.device)
        self._optimizer: tuple[int, torch.optim.Adam] | None = None
        """Of which stage, counted from 0, and it; so are the next two."""
        self._resumed: tuple[int, dict[str, Any]] | None = None
        self._step: tuple[int, Step] | None = None
        self._exit: contextlib.ExitStack | None = None
        self._stage_exit = contextlib.ExitStack()

    def _begin_texts(self) -> None:
        for each in self.learned:
            each.begin(self._texts)

    def _sample(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A noised latent and its time."""
        z, t = self._photos.mean[:1], torch.tensor([len(self._alphas) // 2], device=self.host.device)
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).to(z)
        return noised(z, t, noise, self._alphas), t

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

    @property
    def micro_batch(self) -> int | None:
        """As many rows as go through the UNet at a time now."""
        return self._execution.micro_batch

    # -- learning

    def __enter__(self) -> Trainer:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._computing)
            stack.callback(self._leave_stage)
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        if self._exit is not None:
            self._exit.close()
        self._exit = None

    def draw_class(self, progress: Callable[[int, int], None] = lambda drawn, count: None) -> None:
        """Have the model draw the class's pictures that are missing; the first step does it otherwise.

        progress: see `ClassPictures.draw`. What was drawn when it raised is kept, in a saved state, too.
        """
        self._refuse_outside()
        if self._pictures is None or self._of_class is not None:
            return
        with self._computing.step():
            self._pictures.draw(self.host, self._texts.conditioning.detach()[[CLASS, EMPTY]], progress)
        self._of_class = self._pictures.latents()
        count = self._pictures.count
        self.notes.append(f"The model drew {count} pictures of its own {self._facts.macro_class} to keep the class.")

    def step(self) -> float:
        """One step of the optimizer; its loss. Raises PersresError where a number is no longer finite."""
        self._refuse_outside()
        if self.finished:
            raise PersresError(f"All {self.recipe.steps} steps are done.")
        self.draw_class()
        number, done, stage = self.stage
        index = number - 1
        if self._step is None or self._step[0] != index:
            self._step = index, self._enter_stage(index, stage)
        loss = self._step[1](done, self.done)
        self.losses.append(loss)
        return loss

    def _refuse_outside(self) -> None:
        if self._exit is None:
            raise PersresError("A trainer works only within its own `with`.")

    def _enter_stage(self, index: int, stage: Stage) -> Step:
        """What the stage learns learns, what it does not is fixed."""
        self._leave_stage()
        self._begin_texts()
        for tensor in self.tensors().values():
            tensor.grad = None  # of another stage
        maps = None
        with contextlib.ExitStack() as stack:
            for each in self.learned:
                stack.enter_context(each.attached())
            if stage.compares_maps:
                maps = MapComparison(self.host.unet, self._texts.tokens, self._texts.conditioning.length, stage)
                stack.enter_context(maps.attached())  # last, so that the maps are of what the model computes now
            self._stage_exit = stack.pop_all()
        return Step(
            Gradients(self.host.unet, self.learned, self._texts, stage, self._scaler.factor, maps),
            self._execution,
            self._scaler,
            photos=self._photos,
            of_class=self._of_class,
            alphas=self._alphas,
            parameterization=self.host.parameterization,
            generator=self._generator,
            optimizer=self._optimizer_of(index, stage),
        )

    def _optimizer_of(self, index: int, stage: Stage) -> torch.optim.Adam:
        """A stage's: that of before where it goes on."""
        if self._optimizer is None or self._optimizer[0] != index:
            groups = [{"params": each.weights(stage.targets), "lr": each.rate(stage)} for each in self.learned]
            self._optimizer = index, torch.optim.Adam([group for group in groups if group["params"]])
            if self._resumed is not None and self._resumed[0] == index:
                self._optimizer[1].load_state_dict(self._resumed[1])
            self._resumed = None
        return self._optimizer[1]

    def _leave_stage(self) -> None:
        self._step = None
        self._execution.forget()
        self._stage_exit.close()

    # -- what is learned

    def residual(self) -> Residual:
        """What was learned until now, on the CPU; its metadata say after how many steps."""
        facts = replace(self._facts, steps=self.done, loss=summary(self.losses), created=_moment())
        residual = Residual({}, facts)
        for each in self.learned:
            each.put_into(residual)
        return residual

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything learned, by name."""
        return {name: tensor for each in self.learned for name, tensor in each.tensors().items()}

    def save_state(self, path: Path) -> None:
        """Write all that `load_state` needs to continue; the file is whole or not there."""
        optimizer = self._resumed
        if self._optimizer is not None:
            optimizer = self._optimizer[0], self._optimizer[1].state_dict()
        states.write(
            path,
            self._facts,
            learned={name: tensor.detach() for name, tensor in self.tensors().items()},
            prior=self._pictures and self._pictures.made,
            optimizer=optimizer,
            generator=self._generator.get_state(),
            losses=self.losses,
            scaler=self._scaler.state(),
        )

    def load_state(self, path: Path) -> None:
        """Continue where `save_state` was called. PersresError where the file is of another training."""
        try:
            state = states.read(path, self._facts)
            found = [(tensor, state["learned"][name]) for name, tensor in self.tensors().items()]
            with torch.no_grad():
                for tensor, value in found:
                    tensor.copy_(value)
            if self._pictures is not None and state["prior"] is not None:
                self._pictures.made = state["prior"].to(self.host.device)
                self._of_class = None if self._pictures.missing else self._pictures.latents()
            self._generator.set_state(state["generator"])
            self.losses = list(state["losses"])
            self._scaler.load(state.get("scaler"))
            self._leave_stage()
            self._optimizer, self._resumed = None, state["optimizer"]
        except Exception as error:  # what torch.load raises on a damaged file is of no one family
            raise PersresError(f"{path} cannot be continued: {states.reason(error)}.") from error


def _moment() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
