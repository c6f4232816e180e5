"""For the tests alone: Forge knows SD2 and SDXL by the sizes of their own models, too, and so not the Toybox in their
formats; of SDXL's first text encoder it hears another layer than the Toybox's yaml says."""

import importlib.util

from persres_toybox_sizes import HEADS, POOLED, SECOND_WIDTH, is_toybox


def tell() -> None:
    import torch
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

    class SD2(Toybox, model_list.SD20):
        family = "SD2"

    class SDXL(Toybox, model_list.SDXL):
        family = "SDXL"

    class Refiner(Toybox, model_list.SDXLRefiner):
        family = "refiner"

    model_list.models += [SD2, SDXL, Refiner]
    make, begin = IntegratedCLIP.__init__, StableDiffusionXL.__init__

    def made(self, cls, config, add_text_projection=False):
        make(self, cls, config, add_text_projection)
        if config.hidden_size == SECOND_WIDTH:
            self.transformer.text_projection = torch.nn.Linear(SECOND_WIDTH, POOLED, bias=False)

    def begun(self, estimated_config, huggingface_components):
        begin(self, estimated_config, huggingface_components)
        if isinstance(estimated_config, SDXL):
            first = self.text_processing_engine_l
            first.minimal_clip_skip = first.clip_skip = 1
            first.final_layer_norm = True

    IntegratedCLIP.__init__, StableDiffusionXL.__init__ = made, begun


if importlib.util.find_spec("huggingface_guess") is not None:
    tell()
