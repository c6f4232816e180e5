"""A recipe for two steps of each stage on the WebUI's own host, beside the queue of trainings."""

from pathlib import Path

import numpy as np
from modules import script_callbacks
from PIL import Image


def train(name: str, folder: str, precision: str = ""):
    """Writes FOLDER/NAME.safetensors; what the trainer told."""
    # only now: the extension may load after this probe
    from lib_persres.training import prior
    from lib_persres.training.images import Photo
    from lib_persres.training.recipes import RECIPES
    from lib_persres.training.trainer import Trainer
    from lib_persres.webui.training.lend import lend, turn

    recipe = RECIPES[name]
    stages = [{**vars(stage), "steps": 2, "batch": 1, "localized": 0, "rank": "2"} for stage in recipe.stages]
    recipe = recipe.changed(stages=stages, crops=0, class_images=2)
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    photos = [Photo(Image.fromarray(pixels), Path("a.png"), "0" * 64)]
    steps, prior.STEPS = prior.STEPS, 2
    told = []
    try:
        with turn(), lend(f"probing {name}") as loan:
            trainer = Trainer(
                loan.host, photos, name, "dog", recipe, resolution=64, identifier="phol", precision=precision or None
            )
            with trainer:
                trainer.draw_class(lambda *numbers: told.append(numbers))
                while not trainer.finished:
                    trainer.step()
            trainer.residual().save(Path(folder) / f"{name}.safetensors")
    finally:
        prior.STEPS = steps
    return {"losses": trainer.losses, "notes": trainer.notes, "drawn": told}


script_callbacks.on_app_started(lambda _, app: app.post("/probe/recipe/{name}")(train))
