"""The section "Personalized Residuals" of the WebUI's settings: its inputs, and what they say now."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import gradio as gr
from modules import paths, shared

from ..errors import PersresError
from ..prompt import NETWORK
from .options import CACHE, DEFAULTS, FOLDER, HASHES, LAG, LAG_CHOICES, MAX_CACHE, check
from .settings import TITLE


def chosen(key: str):
    """The setting's present value; PersresError where it is not understood."""
    value = getattr(shared.opts, key, DEFAULTS[key])
    check(key, value)
    return value


def folder() -> Path:
    """Where the residuals are: what the command line says, else the setting, else beside the other models."""
    given = getattr(shared.cmd_opts, "persres_dir", None) or str(chosen(FOLDER)).strip()
    return Path(given or Path(paths.models_path) / "persres")


def add_section(changed: Callable[[], object]) -> None:
    """Register the settings. changed: called after one of them changed."""
    wins = getattr(shared.cmd_opts, "persres_dir", None)
    infos = {
        FOLDER: shared.OptionInfo(
            DEFAULTS[FOLDER], "Folder of the residuals", gr.Textbox, getattr(shared, "hide_dirs", {})
        ).info(
            "empty: the folder persres among the models; "
            + ("now without effect, the command line's --persres-dir wins" if wins else "--persres-dir wins over it")
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
            with contextlib.suppress(Exception):  # outside of a browser's request there is nobody to warn
                gr.Warning(str(error))
            raise  # the WebUI prints it and keeps the value that was there
        changed()

    return onchange
