"""The trainer of what a user asked for, on a loaded model; for the command line and the WebUI alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..sizes import check_side, params_of
from .host import Host
from .images import Photo
from .names import free_identifier
from .options import Running
from .recipe import Recipe
from .trainer import Trainer


def prepare(
    host: Host,
    photos: Sequence[Photo],
    concept: str,
    macro_class: str,
    recipe: Recipe,
    running: Running,
    *,
    identifier: str | None = None,
    others: Iterable[Path] = (),
    class_photos: Sequence[Photo] | None = None,
    told: Callable[[int, str], None] = lambda resolution, identifier: None,
) -> Trainer:
    """Raises PersresError for what does not fit the model.

    identifier: None is one that none of the residuals in `others` has for this class. told(resolution, identifier) is
    called before the photos are encoded, which takes a while.
    """
    params = params_of(host.unet)
    resolution = recipe.resolution or host.side
    check_side(params, resolution, "The resolution")
    if identifier is None:
        identifier = free_identifier(host.encode_text, macro_class, others)
    told(resolution, identifier)
    return Trainer(
        host,
        photos,
        concept,
        macro_class,
        recipe,
        resolution=resolution,
        identifier=identifier,
        class_photos=class_photos,
        **vars(running),
    )
