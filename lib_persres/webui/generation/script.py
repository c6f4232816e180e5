"""The accordion in txt2img and img2img, and the WebUI's calls on a generation's way."""

from __future__ import annotations

import gradio as gr
from modules import images, scripts, shared
from modules.infotext_utils import PasteField
from modules.ui_components import InputAccordion

from ...concepts import UNCONDITIONAL
from ...errors import PersresError
from ...lag_choice import LAG as LAG_CHOICE
from ...masks import MASKS
from ...residual_folder import ResidualFolder
from ..api.refusal import Refused
from ..chosen import chosen
from ..host import HOST
from ..options import LAG
from ..settings import TITLE, Settings
from .infotext import ENABLED, LABELS, Field, read_settings
from .job import Job
from .xyz import add_axes, apply_axes


class PersresScript(scripts.Script):
    """Subclasses give the residuals."""

    residuals: ResidualFolder

    def __init__(self):
        super().__init__()
        add_axes(self.residuals)  # now all scripts are known, the plot's too, and none has shown its inputs

    def title(self):
        return TITLE

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        default = Settings()
        with InputAccordion(default.enabled, label=TITLE, elem_id=self.elem_id("enabled")) as enabled:
            with gr.Row():
                lag = gr.Radio(
                    list(LAG_CHOICE),
                    value=lambda: "off" if chosen(LAG) == "never" else default.lag,  # asked again with each page
                    label="Localized attention-guided sampling (LAG)",
                    info="each residual acts only where its concept is in the picture; auto: unless the prompt lends "
                    'its look to something else, as "in the style of V*"',
                    elem_id=self.elem_id("lag"),
                )
                lag.do_not_save_to_config = True  # else the first start's value would win over the setting
                show_masks = gr.Checkbox(
                    default.show_masks,
                    label="Show masks",
                    info="adds pictures of where LAG let the residuals act",
                    elem_id=self.elem_id("show_masks"),
                )
            strength = gr.Slider(
                0.0,
                2.0,
                value=default.strength,
                step=0.05,
                label="Strength of all residuals",
                elem_id=self.elem_id("strength"),
            )
            with gr.Accordion("Advanced", open=False, elem_id=self.elem_id("advanced")), gr.Row():
                mask = gr.Dropdown(
                    list(MASKS),
                    value=default.mask,
                    label="Mask",
                    visible=len(MASKS) > 1,
                    elem_id=self.elem_id("mask"),
                )
                unconditional = gr.Radio(
                    list(UNCONDITIONAL),
                    value=default.unconditional,
                    label="Unconditional rows",
                    info="under LAG; mirror: the image's own masks; base: the untouched model",
                    elem_id=self.elem_id("unconditional"),
                )
        inputs = {
            "enabled": enabled,
            "lag": lag,
            "mask": mask,
            "unconditional": unconditional,
            "strength": strength,
            "show_masks": show_masks,
        }
        fields = {"enabled": Field(ENABLED, lambda params: read_settings(params) is not None)}
        fields |= {name: Field(label, _reader(name)) for name, label in LABELS.items()}
        self.infotext_fields = [PasteField(inputs[name], field) for name, field in fields.items()]
        self.paste_field_names = list(fields.values())
        return list(inputs.values())

    def before_process(self, p, *args):
        # the WebUI swallows what a script raises, but not what p raises: a refusal goes by way of p
        if hasattr(p.__dict__.get("setup_prompts"), "persres"):
            del p.setup_prompts
        try:
            settings, problem = apply_axes(p, Settings.from_inputs(args, chosen(LAG)))
            job = Job.start(p, self.residuals, settings)
            if problem:
                job.tell(problem)
        except Exception as error:
            text = str(error) if isinstance(error, PersresError) else f"{TITLE} failed: {error!r}"

            def refuse():
                raise Refused(text)

            refuse.persres = True
            p.setup_prompts = refuse

    def before_process_batch(self, p, *args, **kwargs):
        if job := Job.of(p):
            job.sources = p.prompts

    def postprocess_batch(self, p, *args, images, **kwargs):
        if job := Job.of(p):
            job.check_pictures(images)

    def postprocess_image(self, p, pp, *args):
        job = Job.of(p)
        if job and job.settings.show_masks:
            job.add_overlay(pp.image)

    def postprocess(self, p, processed, *args):
        job = Job.of(p)
        for image, infotext, seed in job.overlays if job else ():
            if shared.opts.enable_pnginfo:
                image.info["parameters"] = infotext
            if p.save_samples():
                images.save_image(
                    image,
                    p.outpath_samples,
                    "",
                    seed,
                    processed.prompt,
                    shared.opts.samples_format,
                    info=infotext,
                    p=p,
                    suffix="-persres-masks",
                )
            if not HOST.runs_script(p):
                processed.images.append(image)
                processed.infotexts.append(infotext)
        if job and job.overlays:
            if HOST.runs_script(p):  # which makes a grid of the pictures, or another of them
                job.tell("The masks of a script's pictures are saved beside them and not shown.")
            job.overlays = []


def _reader(name: str):
    def read(params):
        settings = read_settings(params)
        return None if settings is None else getattr(settings, name)

    return read
