"""A training from its beginning to its end, or to where it is told to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..residual import Residual
from .host import Host
from .images import Photo
from .recipe import Recipe
from .trainer import Trainer


def learn(
    trainer: Trainer,
    *,
    after_step: Callable[[float], None] = lambda loss: None,
    should_stop: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = lambda sentence: None,
    drawing: Callable[[int, int], None] = lambda drawn, count: None,
) -> None:
    """Make all steps that are left. The host's modules are left as they were.

    after_step(loss), and before each step should_stop(), with which it ends. tell(sentence): each of the trainer's
    notes. drawing(drawn, count): while the model draws pictures of the class, see `Trainer.draw_class`. Whatever these
    raise ends it, too; called again, it goes on.
    """
    told = 0

    def tell_notes() -> None:
        nonlocal told
        told, new = len(trainer.notes), trainer.notes[told:]
        for sentence in new:
            tell(sentence)

    with trainer:
        trainer.draw_class(drawing)
        tell_notes()
        while not trainer.finished and not should_stop():
            loss = trainer.step()
            tell_notes()
            after_step(loss)


def train(
    host: Host,
    photos: Sequence[Photo],
    concept: str,
    macro_class: str,
    recipe: Recipe,
    *,
    progress: Callable[[int, int, float], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = lambda sentence: None,
    drawing: Callable[[int, int], None] = lambda drawn, count: None,
    **options: Any,
) -> Residual:
    """Learn a residual, see `learn`. options: those of `Trainer`. progress(done, total, loss): after each step.

    Where it is told to stop, what was learned until then is returned; its metadata tell the steps done.
    """
    trainer = Trainer(host, photos, concept, macro_class, recipe, **options)

    def after_step(loss: float) -> None:
        if progress is not None:
            progress(trainer.done, recipe.steps, loss)

    learn(trainer, after_step=after_step, should_stop=should_stop, tell=tell, drawing=drawing)
    return trainer.residual()
