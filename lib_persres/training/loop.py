"""A training from its beginning to its end, or to where it is told to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..residual import Residual
from .host import Host
from .images import Photo
from .recipe import Recipe
from .trainer import Trainer


def train(
    host: Host,
    photos: Sequence[Photo],
    concept: str,
    macro_class: str,
    recipe: Recipe,
    *,
    begun: Callable[[Trainer], None] = lambda trainer: None,
    progress: Callable[[int, int, float], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = lambda sentence: None,
    drawing: Callable[[int, int], None] = lambda drawn, count: None,
    **options,
) -> Residual:
    """Learn a residual. options: those of `Trainer`.

    begun(trainer) is called before anything is learned, and may load a state. progress(done, total, loss) is called
    after each step; when should_stop() turns true, what was learned until then is returned (its metadata tell the steps
    done). tell(sentence) is called with each of the trainer's notes.
    drawing(drawn, count) is called while the model draws pictures of the class, see `Trainer.draw_class`. The host's
    modules are left as they were.
    """
    trainer = Trainer(host, photos, concept, macro_class, recipe, **options)
    told = 0
    begun(trainer)
    with trainer:
        trainer.draw_class(drawing)
        while not trainer.finished and not should_stop():
            loss = trainer.step()
            if progress is not None:
                progress(trainer.done, recipe.steps, loss)
            for sentence in trainer.notes[told:]:
                tell(sentence)
            told = len(trainer.notes)
    return trainer.residual()
