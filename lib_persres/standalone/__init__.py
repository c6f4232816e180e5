"""Load a checkpoint of SD1, SD2 or SDXL and sample from it, without the WebUI.

`checkpoint.load(path)` gives a `StableDiffusion`; `sampler.sample(sd, …)` draws with it.
Nothing is imported here: ldm and transformers are wanted only by those who use a submodule.
"""
