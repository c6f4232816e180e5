"""What the user chose for the WebUI, and by whom it is asked: the same in every WebUI of the line."""

from __future__ import annotations

import contextlib
from pathlib import Path

import gradio as gr
from modules import initialize_util, paths, scripts, shared


class Choices:
    def option(self, name: str, default=None):
        """A value of the WebUI's settings."""
        return getattr(shared.opts, name, default)

    def takes_comments(self) -> bool:
        """Whether what follows a # in a prompt is left out, as it is where no setting says otherwise."""
        return bool(self.option("enable_prompt_comments", True))

    def flag(self, name: str):
        """A value of the command line; None where there is none."""
        return getattr(shared.cmd_opts, name, None)

    def models_folder(self) -> Path:
        return Path(paths.models_path)

    def lora_folder(self) -> Path | None:
        """Where the WebUI's own LoRA files are; None without the extension that has them."""
        folder = self.flag("lora_dir")
        return Path(folder) if folder and Path(folder).is_dir() else None

    def data_folder(self) -> Path:
        return Path(paths.data_path)

    def warn(self, sentence: str) -> None:
        with contextlib.suppress(Exception):  # outside of a browser's request there is nobody to warn
            gr.Warning(sentence)

    def passwords(self) -> list[str]:
        """ "user:password" of those who may use the API: of --api-auth, without it of --gradio-auth."""
        pairs = [pair.strip() for pair in (shared.cmd_opts.api_auth or "").split(",") if pair.strip()]
        return pairs or [":".join(pair) for pair in initialize_util.get_gradio_auth_creds()]

    def forget_defaults(self, api, title: str) -> None:
        """The WebUI fills what a request leaves out with the inputs' values at its start; None is our default of now.

        title: of the script.
        """
        for runner, name in (
            (scripts.scripts_txt2img, "default_script_arg_txt2img"),
            (scripts.scripts_img2img, "default_script_arg_img2img"),
        ):
            values = getattr(api, name, None) or []
            for script in runner.alwayson_scripts if values else ():
                if script.title() == title:
                    values[script.args_from : script.args_to] = [None] * (script.args_to - script.args_from)

    def runs_script(self, p) -> bool:
        """Whether a script of the list is at work, which counts on the pictures that it asked for."""
        chosen = getattr(p, "script_args", None) or [0]
        return bool(chosen[0]) and bool(getattr(getattr(p, "scripts", None), "selectable_scripts", None))

    def plots(self) -> list:
        """The modules of the X/Y/Z plot, where the WebUI has one."""
        names = "xyz_grid.py", "scripts.xyz_grid"
        return [data.module for data in scripts.scripts_data if data.script_class.__module__ in names]

    def styles(self):
        """The users' styles."""
        return shared.prompt_styles
