"""Registers the extension with the WebUI; everything else is in lib_persres/webui."""

from pathlib import Path

from modules import extra_networks, paths, script_callbacks, shared, ui_extra_networks

from lib_persres.webui import script
from lib_persres.webui.api import add_routes
from lib_persres.webui.cards import ResidualsPage
from lib_persres.webui.files import Shelf
from lib_persres.webui.infotext import renamed
from lib_persres.webui.job import Job
from lib_persres.webui.network import PersresNetwork


def folder() -> Path:
    return Path(getattr(shared.cmd_opts, "persres_dir", None) or Path(paths.models_path) / "persres")


SHELF = Shelf(folder)


class PersonalizedResiduals(script.PersresScript):
    shelf = SHELF


def register(*_):
    SHELF.refresh()
    extra_networks.register_extra_network(PersresNetwork(SHELF))


def cfg_denoiser(params):
    if job := Job.of(params.denoiser.p):
        job.evaluate(params)


script_callbacks.on_before_ui(register)
script_callbacks.on_before_ui(lambda: ui_extra_networks.register_page(ResidualsPage(SHELF)))
script_callbacks.on_app_started(register)  # with --nowebui there is no UI
script_callbacks.on_app_started(lambda _, app: add_routes(app, SHELF))
script_callbacks.on_cfg_denoiser(cfg_denoiser)
script_callbacks.on_infotext_pasted(lambda infotext, params: renamed(SHELF, params))
