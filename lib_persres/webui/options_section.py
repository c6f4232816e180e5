"""The section "Personalized Residuals" of the WebUI's settings: its inputs."""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr
from modules import shared

from ..errors import PersresError
from ..prompt import NETWORK
from .chosen import chosen
from .host import HOST
from .options import (
    CACHE,
    DEFAULTS,
    FOLDER,
    GIVE_WAY,
    HASHES,
    LAG,
    LAG_CHOICES,
    LORA_CHOICES,
    LORAS,
    MAX_CACHE,
    STATE_EVERY,
    TRAIN_FOLDERS,
)
from .settings import TITLE


def add_section(changed: Callable[[], object]) -> None:
    """Register the settings. changed: called after one of them changed."""
    wins = HOST.flag("persres_dir")
    infos = {
        FOLDER: shared.OptionInfo(
            DEFAULTS[FOLDER], "Folder of the residuals", gr.Textbox, getattr(shared, "hide_dirs", {})
        ).info(
            "empty: the folder persres among the models; "
            + ("now without effect, the command line's --persres-dir wins" if wins else "--persres-dir wins over it")
        ),
        LORAS: shared.OptionInfo(
            DEFAULTS[LORAS], "LoRA files of the WebUI's own folder", gr.Radio, {"choices": list(LORA_CHOICES)}
        ).info(
            "tags: <persres:lora/name> finds them; cards: and each has a card among the residuals, after a refresh; "
            "never: only those among the residuals"
        ),
        LAG: shared.OptionInfo(DEFAULTS[LAG], "LAG by default", gr.Radio, {"choices": list(LAG_CHOICES)}).info(
            "for tags without lag=; accordion: where the accordion is open; always: also where it is closed; "
            "never: only where it is ticked; an open page follows when it is reloaded"
        ),
        CACHE: shared.OptionInfo(
            DEFAULTS[CACHE], "Residuals kept in memory", gr.Slider, {"minimum": 0, "maximum": MAX_CACHE, "step": 1}
        ).info("the one that was not used for the longest time goes out first"),
        HASHES: shared.OptionInfo(DEFAULTS[HASHES], "Write hashes of residuals into the infotext").info(
            "with them a pasted prompt finds a file that was renamed"
        ),
        STATE_EVERY: shared.OptionInfo(
            DEFAULTS[STATE_EVERY], "Steps between saved states of a training", gr.Number, {"precision": 0}
        ).info("after a crash it continues from the last one; 0: only where it is stopped"),
        GIVE_WAY: shared.OptionInfo(DEFAULTS[GIVE_WAY], "Trainings give way to images").info(
            "between two steps; off: an image waits until no training is left in the queue"
        ),
        TRAIN_FOLDERS: shared.OptionInfo(
            DEFAULTS[TRAIN_FOLDERS],
            "Folders that the API may train from",
            gr.Textbox,
            {"lines": 2, **(getattr(shared, "hide_dirs", None) or {})},
            restrict_api=True,  # else who may use the API could allow itself any folder
        ).info("full paths, one a line, beside the WebUI's own data folder"),
    }
    for key, info in infos.items():
        info.section = (NETWORK, TITLE)
        info.onchange = _guarded(key, changed)
        shared.opts.add_option(key, info)
        try:
            chosen(key)
        except PersresError as error:  # the settings file was written by hand, or the folder has gone
            print(f"{NETWORK}: {error} The default is used.")
            shared.opts.data[key] = DEFAULTS[key]


def _guarded(key: str, changed: Callable[[], object]) -> Callable[[], None]:
    def onchange():
        try:
            chosen(key)
        except PersresError as error:
            HOST.warn(str(error))
            raise  # the WebUI prints it and keeps the value that was there
        changed()

    return onchange
