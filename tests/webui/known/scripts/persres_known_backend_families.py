"""For the tests alone: Forge knows SD2 and SDXL by the sizes of their own models, too, and so not the Toybox in their
formats; of SDXL's first text encoder it hears another layer than the Toybox's yaml says."""

import importlib.util

from persres_toybox_sizes import HEADS, POOLED, SECOND_WIDTH, is_toybox

BASES = {"SD2": "SD20", "SDXL": "SDXL", "refiner": "SDXLRefiner"}
"""What Forge calls the families."""


def tell() -> None:
    import torch
    from backend import loader
    from backend.diffusion_engine.sdxl import StableDiffusionXL
    from backend.nn.clip import IntegratedCLIP
    from huggingface_guess import model_list

    class Toybox:
        family = ""
        small = True
        unet_extra_config = {"num_heads": HEADS, "num_head_channels": -1}

        @classmethod
        def matches(cls, unet_config, state_dict=None):
            return is_toybox(cls.family, unet_config)

    for family, name in BASES.items():
        base = getattr(model_list, name, None)  # Forge Neo has no SD2
        if base is not None:
            kind = type(f"Toybox{name}", (Toybox, base), {"family": family})
            model_list.models.append(kind)
            # Forge Neo asks for the very class
            next(each for each in loader.possible_models if base in each.matched_guesses).matched_guesses.append(kind)
    make, begin = IntegratedCLIP.__init__, StableDiffusionXL.__init__

    def made(self, cls, config, add_text_projection=False):
        make(self, cls, config, add_text_projection)
        if config.hidden_size == SECOND_WIDTH:
            self.transformer.text_projection = torch.nn.Linear(SECOND_WIDTH, POOLED, bias=False)

    def begun(self, estimated_config, huggingface_components):
        begin(self, estimated_config, huggingface_components)
        if getattr(estimated_config, "family", "") == "SDXL":
            first = self.text_processing_engine_l
            first.minimal_clip_skip = first.clip_skip = 1
            first.final_layer_norm = True

    IntegratedCLIP.__init__, StableDiffusionXL.__init__ = made, begun


if importlib.util.find_spec("huggingface_guess") is not None:
    tell()
