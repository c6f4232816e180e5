"""The top-level tab "Personalized Residuals": its inputs and what they do.

The right half, where trainings are watched, is drawn by javascript/persres_training.js from the answers of the desk.
"""

from __future__ import annotations

import contextlib
import html
from collections.abc import Callable

import gradio as gr
from modules.ui_common import create_refresh_button

from ...errors import PersresError
from ...residual_folder import ResidualFolder
from ...training.options import Option
from ..exporting import save_as_lora
from ..generation.prompt_status import NAME as STATUS
from ..generation.prompt_status import PromptStatus
from ..gradios import uploads
from ..host import HOST
from ..recipes import choices, name_in, shown_as, weak_rank
from ..settings import TITLE
from ..training.jobs import Jobs
from ..training.photos import MOST
from ..training.request import OF_RECIPE, Request
from . import form, pictures
from .desk import Desk
from .model import LoadedModel
from .presets import Presets

NAME = "persres_training"
PRESET, RESIDUAL = "preset: ", "residual: "
HINTED = tuple(option.name for option in OF_RECIPE if option in form.FIELDS or option.apart)
"""The inputs that a recipe's choice changes."""
PANEL = f'<div id="{NAME}_panel"><p class="persres-note">Trainings are shown here.</p></div>'
OTHERS = f"{NAME}_others"
"""The ids of the inputs for pictures of the class, beside those of the photos, which begin with NAME."""
DROP = """<label class="persres-drop" data-kind="{kind}">
<input type="file" multiple id="{kind}_files" data-most="{most}" accept="image/*,.heic,.heif,.avif">
<b>{what}</b><span>or click to choose them</span></label>"""
HELP = (
    "Drop 3 to 10 photos of one thing, name it, say what kind of thing it is, and press Train. "
    "The checkpoint that is loaded learns it; images that are asked for meanwhile are drawn between two of its steps."
)


class TrainingTab:
    def __init__(self, jobs: Jobs, residuals: ResidualFolder, presets: Presets):
        self._jobs, self._residuals, self._presets = jobs, residuals, presets
        self._model = LoadedModel()
        self._desk = Desk(jobs, residuals, save_as_lora)
        self._uploads = uploads()

    def tabs(self):
        """For script_callbacks.on_ui_tabs; the tab is made anew whenever the WebUI's page is."""
        with gr.Blocks(analytics_enabled=False) as block:
            with gr.Row(equal_height=False, elem_id=f"{NAME}_row"):
                with gr.Column(scale=5, min_width=380):
                    self._images()
                    self._concept()
                    self._advanced()
                    self._sources()
                with gr.Column(scale=6, min_width=420):
                    gr.HTML(PANEL, elem_id=NAME)
            self._connect()
        return [(block, TITLE, NAME)]

    # -- the inputs

    def _images(self) -> None:
        gr.HTML(f'<p class="persres-note">{HELP}</p>')
        self.chosen, self.shown, self.folder = _zone(NAME, "Drop images here", "a folder of images")

    def _concept(self) -> None:
        with gr.Row():
            self.name = gr.Textbox(label="Concept name", placeholder="rex", max_lines=1, elem_id=f"{NAME}_name")
            self.noun = gr.Textbox(label="Class", placeholder="dog", max_lines=1, elem_id=f"{NAME}_class")
        self.recipe = gr.Dropdown(
            choices(form.AUTOMATIC), value=shown_as(form.AUTOMATIC), label="Recipe", elem_id=f"{NAME}_recipe"
        )
        self.about = gr.HTML("", elem_id=f"{NAME}_about", elem_classes="persres-note")
        with gr.Column(visible=False, elem_id=OTHERS) as self.others:
            zone = _zone(OTHERS, "Drop pictures of the class here (optional)", "a folder of pictures of the class")
            self.others_chosen, self.others_shown, self.others_folder = zone
        self.start = gr.Button("Train", variant="primary", elem_id=f"{NAME}_start")
        self.said = gr.HTML("", elem_id=f"{NAME}_said")
        self.seen = gr.Button("Look again", elem_id=f"{NAME}_seen", elem_classes="persres-hidden")

    def _advanced(self) -> None:
        self.fields = {}
        with gr.Accordion("Advanced", open=False, elem_id=f"{NAME}_advanced"):
            gr.HTML('<p class="persres-note">What is empty has the value in grey.</p>')
            for row in form.rows():
                with gr.Row():
                    for option in row:
                        self.fields[option.name] = _input(option)

    def _sources(self) -> None:
        with gr.Accordion("Load or keep settings", open=False, elem_id=f"{NAME}_sources"):
            with gr.Row():
                self.source = gr.Dropdown(
                    [], label="Presets and trained residuals", elem_id=f"{NAME}_source", allow_custom_value=False
                )
                self.source.do_not_save_to_config = True
                create_refresh_button(
                    self.source, lambda: None, lambda: {"choices": self._choices()}, f"{NAME}_source_refresh"
                )
                self.load = gr.Button("Load settings", elem_id=f"{NAME}_load")
            with gr.Row():
                self.preset = gr.Textbox(
                    label="Preset", placeholder="a name for these settings", max_lines=1, elem_id=f"{NAME}_preset"
                )
                self.keep = gr.Button("Keep as preset", elem_id=f"{NAME}_keep")
                self.forget = gr.Button("Delete preset", elem_id=f"{NAME}_forget")
            self.loaded = gr.HTML("", elem_id=f"{NAME}_loaded")

    # -- what they do

    def _connect(self) -> None:
        self.fields = {"concept": self.name, "macro_class": self.noun, "recipe": self.recipe, **self.fields}
        names, inputs = list(self.fields), list(self.fields.values())

        def named(call):
            """call({name: value}, *others), for gradio's positional values."""

            def called(*given):
                values = dict(zip(names, given))
                return call({**values, "recipe": name_in(values["recipe"])}, *given[len(names) :])

            return called

        everything = [*inputs, self.chosen, self.folder]
        look = {"fn": named(self._look), "inputs": everything, "outputs": [self.shown, self.said]}
        quiet = {"show_progress": "hidden", "queue": False}
        self.chosen.change(**look, **quiet)
        self.folder.blur(**look, **quiet)
        self.folder.submit(**look, **quiet)
        for name in ("seed", "crops", "resolution"):
            self.fields[name].blur(**look, **quiet)
        self.fields["flips"].change(**look, **quiet)
        others = [self.others_chosen, self.others_folder]
        see = {"fn": named(self._look_at_others), "inputs": [*inputs, *others]}
        see["outputs"] = [self.others_shown, self.said]
        self.others_chosen.change(**see, **quiet)
        self.others_folder.blur(**see, **quiet)
        self.others_folder.submit(**see, **quiet)
        hints = [self.about, self.others, *(self.fields[name] for name in HINTED)]
        self.recipe.change(named(self._hints), inputs, hints, **quiet)
        # pressed by the page whenever the tab comes into sight: the checkpoint may be another
        self.seen.click(named(self._hints), inputs, hints, **quiet)
        for name in ("steps", "batch", "rank", "resolution"):
            self.fields[name].blur(lambda *given: named(self._about)(*given)[0], inputs, [self.about], **quiet)
        self.seen.click(lambda: gr.update(choices=self._choices()), None, [self.source], **quiet)

        self.start.click(named(self._start), [*everything, *others], [self.said])
        self.load.click(self._load, [self.source, *inputs], [*inputs, self.loaded], show_progress="hidden").then(**look)
        self.keep.click(named(self._keep), [*inputs, self.preset], [self.source, self.loaded], show_progress="hidden")
        self.forget.click(self._forget, [self.preset], [self.source, self.loaded], show_progress="hidden")

        _answer(NAME, self._desk.answer)
        _answer(STATUS, PromptStatus(self._residuals).answer)  # here, since the accordion is made several times

    def _look(self, values, chosen, folder):
        """The images as the model will see them; numbers that are no numbers yet are told when Train is pressed."""
        try:
            paths, from_folder = self._paths(chosen, folder)
            recipe, seed, resolution = form.recipe_of(values["recipe"], self._model.is_toybox()), 0, None
            with contextlib.suppress(PersresError):
                request = Request(**form.read({**values, "concept": "a", "macro_class": "a"}))
                recipe, seed, resolution = request.recipe_for(recipe.name), request.seed, request.resolution
            resolution = resolution or self._model.resolution() or 512
            return pictures.gallery(paths, resolution, recipe.crops, recipe.flips, seed, not from_folder), ""
        except PersresError as error:
            return "", _said(str(error), "refused")

    def _look_at_others(self, values, chosen, folder):
        try:
            paths, from_folder = self._paths(chosen, folder)
            resolution = self._model.resolution() or 512
            with contextlib.suppress(PersresError):  # told when Train is pressed
                resolution = form.read({**values, "concept": "a", "macro_class": "a"})["resolution"] or resolution
            return pictures.gallery(paths, resolution, 0, False, 0, not from_folder, of_class=True), ""
        except PersresError as error:
            return "", _said(str(error), "refused")

    def _paths(self, chosen: str, folder: str) -> tuple[list[str], bool]:
        """The images, and whether they come from the folder."""
        dropped = pictures.uploaded(chosen, self._uploads)
        if not folder.strip():
            return dropped, False
        if HOST.flag("hide_ui_dir_config"):  # as the WebUI's own tabs do
            raise PersresError("Folders of this machine are not open to this page (--hide-ui-dir-config): drop images.")
        if dropped:
            raise PersresError("There are dropped images and a folder: remove the one or empty the other.")
        return pictures.in_folder(folder), True

    def _start(self, values, chosen, folder, others_chosen, others_folder):
        try:
            paths, _ = self._paths(chosen, folder)
            if lacks := form.missing(values, len(paths)):
                raise PersresError(lacks)
            toybox = self._model.is_toybox()
            request = form.request_of(values, toybox)
            warning = weak_rank(request.recipe_for(form.recipe_of(request.recipe, toybox).name), self._model.unet())
            others = []
            if form.recipe_of(request.recipe, False).keeps_class:  # else the page hides them
                others, _ = self._paths(others_chosen, others_folder)
            of_class = pictures.contents(others, of_class=True) if others else []
            notes = pictures.passed_over(folder, others_folder if others else "")
            self._jobs.submit(request, pictures.contents(paths), of_class, notes)
        except PersresError as error:
            return _refused(error)
        return _said(f'"{request.concept}" is in the queue.') + (_said(warning, "refused") if warning else "")

    def _about(self, values):
        """HTML about the recipe with the values of the inputs, and the recipe as it comes along."""
        chosen = recipe = form.recipe_of(values["recipe"], self._model.is_toybox())
        side, unet = self._model.resolution(), self._model.unet()
        with contextlib.suppress(PersresError):  # told when Train is pressed
            request = Request(**form.read({**values, "concept": "a", "macro_class": "a"}))
            recipe, side = request.recipe_for(chosen.name), request.resolution or side
        sentences = form.about(values["recipe"], recipe, unet, side, self._jobs.list())
        told = "".join(f"<p>{html.escape(text)}</p>" for text in sentences)
        warning = weak_rank(recipe, unet)
        return told + (_said(warning, "refused") if warning else ""), chosen

    def _hints(self, values):
        about, chosen = self._about(values)
        shown, fixed = form.placeholders(chosen, self._model.resolution()), form.fixed(chosen)
        updates = []
        for name in HINTED:
            changes = {"placeholder": shown[name]} if name in shown else {}
            if name in fixed:  # emptied, too: a value that cannot be reached would be refused with the training
                changes["value"] = form.unset(name)
            updates.append(gr.update(interactive=name not in fixed, **changes))
        return [about, gr.update(visible=chosen.keeps_class), *updates]

    def _choices(self) -> list[str]:
        try:
            presets = [PRESET + name for name in self._presets.all()]
            if problem := self._presets.problem():
                _refused(PersresError(problem))
        except PersresError as error:
            _refused(error)
            presets = []
        trained = [entry.name for entry in self._residuals.refresh() if entry.metadata and entry.metadata.recipe]
        return presets + [RESIDUAL + name for name in trained]

    def _load(self, source, *values):
        """The inputs with what the source says, the others as they are."""
        try:
            if not source:
                raise PersresError("Nothing is chosen: pick a preset or a residual from the list.")
            if source.startswith(PRESET):
                found = self._presets.get(source.removeprefix(PRESET))
            else:
                entry = self._residuals.find(source.removeprefix(RESIDUAL))
                if entry.metadata is None:
                    raise PersresError(f"{entry.path} cannot be read any more, so nothing was loaded.")
                found = form.from_file(entry.metadata)
        except PersresError as error:
            return *values, _refused(error)
        if "recipe" in found:
            found["recipe"] = shown_as(str(found["recipe"] or form.AUTOMATIC))
        new = {name: found.get(name, value) for name, value in zip(self.fields, values)}
        return *new.values(), _said(f"Loaded from {source}.")

    def _keep(self, values, preset):
        try:
            form.read({**values, "concept": "a", "macro_class": "a"})
            name = self._presets.save(preset, values)
        except PersresError as error:
            return gr.update(), _refused(error)
        return gr.update(choices=self._choices(), value=PRESET + name), _said(f'The preset "{name}" is kept.')

    def _forget(self, preset):
        try:
            self._presets.delete((preset or "").strip())
        except PersresError as error:
            return gr.update(), _refused(error)
        return gr.update(choices=self._choices(), value=None), _said(f'The preset "{preset.strip()}" is deleted.')


def _input(option: Option):
    about = {"label": option.label, "info": option.help or None, "elem_id": f"{NAME}_{option.name}"}
    if option.name in form.CHOICES:
        return gr.Dropdown(list(form.CHOICES[option.name]), value=form.unset(option.name), **about)
    if option in form.SWITCHES:
        return gr.Checkbox(option.default, **about)
    return gr.Textbox(placeholder=option.empty or str(option.default), max_lines=1, **about)


def _answer(name: str, answer: Callable[[str], str]) -> None:
    """What the page asks by ./run/NAME, an event of gradio's, which the page's own login guards."""
    question, told = gr.Textbox(visible=False), gr.Textbox(visible=False)
    question.change(answer, [question], [told], queue=False, api_name=name)


def _zone(kind: str, what: str, folder_of: str) -> tuple[gr.Textbox, gr.HTML, gr.Textbox]:
    """Where images are dropped: the list of what was uploaded, where they are shown, and a folder instead."""
    gr.HTML(DROP.format(kind=kind, most=MOST, what=what), elem_id=f"{kind}_drop")
    # not gr.File: its upload never ends when another event of the page ends meanwhile; javascript/ keeps the list
    chosen = gr.Textbox("[]", show_label=False, elem_id=f"{kind}_chosen", elem_classes="persres-hidden")
    chosen.do_not_save_to_config = True
    shown = gr.HTML("", elem_id=f"{kind}_shown")
    folder = gr.Textbox(
        label=f"or {folder_of} on the WebUI's machine",
        placeholder="none",
        max_lines=1,
        visible=not HOST.flag("hide_ui_dir_config"),
        elem_id=f"{kind}_folder",
    )
    return chosen, shown, folder


def _refused(error: PersresError) -> str:
    HOST.warn(str(error))
    return _said(str(error), "refused")


def _said(text: str, kind: str = "done") -> str:
    return f'<p class="persres-{kind}" role="status">{html.escape(text)}</p>'
