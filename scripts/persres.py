"""Registers the extension with the WebUI; everything else is in lib_persres/webui."""

from modules import extra_networks, script_callbacks, ui_extra_networks
from modules.cache import cache

from lib_persres.webui.api.guard import guard
from lib_persres.webui.api.residuals import add_routes
from lib_persres.webui.api.training import add_training_routes
from lib_persres.webui.cards.page import ResidualsPage
from lib_persres.webui.chosen import chosen, folder, lora_folder, shows_loras, training_folders
from lib_persres.webui.files import Files
from lib_persres.webui.generation import script
from lib_persres.webui.generation.infotext import renamed
from lib_persres.webui.generation.job import Job
from lib_persres.webui.generation.network import PersresNetwork
from lib_persres.webui.host import HOST
from lib_persres.webui.options import CACHE, STATE_EVERY
from lib_persres.webui.options_section import add_section
from lib_persres.webui.tab.model import refuse_unfit
from lib_persres.webui.tab.presets import Presets
from lib_persres.webui.tab.tab import TrainingTab
from lib_persres.webui.training.jobs import Jobs
from lib_persres.webui.training.lend import lend, turn

RESIDUALS = Files(folder, lambda: int(chosen(CACHE)), cache("persres-hashes"), lora_folder, shows_loras)
QUEUE = HOST.data_folder() / "persres-training"
JOBS = Jobs(QUEUE, RESIDUALS, turn, lend, lambda: int(chosen(STATE_EVERY)), refuse_unfit, HOST.on_thread)
TAB = TrainingTab(JOBS, RESIDUALS, Presets(QUEUE / "presets.json"))


class PersonalizedResiduals(script.PersresScript):
    residuals = RESIDUALS


def register(*_):
    RESIDUALS.refresh()
    extra_networks.register_extra_network(PersresNetwork(RESIDUALS))


def cfg_denoiser(params):
    if job := Job.of(params.denoiser.p):
        job.evaluate(params)


def settings_changed():
    RESIDUALS.refresh()
    RESIDUALS.trim()


add_section(settings_changed)  # now: what answers GET /sdapi/v1/options is made by whoever imports it first
HOST.watch_restarts()  # now: the page's button is made of the method that is there then
script_callbacks.on_before_ui(register)
script_callbacks.on_before_ui(lambda: ui_extra_networks.register_page(ResidualsPage(RESIDUALS)))
script_callbacks.on_ui_tabs(TAB.tabs)
script_callbacks.on_app_started(register)  # with --nowebui there is no UI
script_callbacks.on_app_started(lambda _, app: add_routes(app, RESIDUALS))
script_callbacks.on_app_started(lambda _, app: guard(app))
script_callbacks.on_app_started(lambda _, app: add_training_routes(app, JOBS, training_folders))
script_callbacks.on_app_started(lambda *_: JOBS.start())
script_callbacks.on_script_unloaded(JOBS.close)
script_callbacks.on_cfg_denoiser(cfg_denoiser)
script_callbacks.on_infotext_pasted(lambda infotext, params: renamed(RESIDUALS, params))
