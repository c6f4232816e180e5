"""What the families' small checkpoints want: the sizes of their text encoders, told to OpenCLIP, which knows models by
name; and for files whose name ends in -v a UNet that says v where its weights say the noise."""

from pathlib import Path

import open_clip
from modules import paths, script_callbacks

for config in Path(paths.models_path).glob("Stable-diffusion/*_text_encoder/*.json"):
    if '"text_cfg"' in config.read_text():
        open_clip.add_model_config(config)


def alpha_at(alphas, t):
    """That of a time between two, as k-diffusion has it: log σ runs straight."""
    log_sigmas = (0.5 * ((1 - alphas) / alphas).log()).to(t.device)
    low, high = t.floor().long(), t.ceil().long()
    part = (t - low).to(log_sigmas)
    sigma = ((1 - part) * log_sigmas[low] + part * log_sigmas[high]).exp()
    return (1 / (1 + sigma**2)).view(-1, 1, 1, 1)


def say_v(model):
    if not model.sd_checkpoint_info.model_name.endswith("-v"):
        return
    from lib_persres.webui.host import HOST

    unet, alphas = HOST.unet(model), HOST.alphas(model).clone()
    eps = unet.forward

    def forward(x, timesteps=None, *args, **kwargs):
        a = alpha_at(alphas, timesteps.float())
        return (eps(x, timesteps, *args, **kwargs) - (1 - a).sqrt() * x) / a.sqrt()

    unet.forward = forward


script_callbacks.on_model_loaded(say_v)
