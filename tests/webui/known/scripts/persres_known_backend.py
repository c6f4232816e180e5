"""For the tests alone: Forge guesses a model by the sizes of Stable Diffusion's own, and takes those of the text
encoder and the autoencoder from there."""

import importlib.util

from persres_toybox_sizes import HEADS, SCALE, text_heads

SCALES = {64: SCALE}
"""Of the latents, by the width of the Toybox's UNet, which no tensor says."""


def tell() -> None:
    from backend import loader
    from backend.nn.vae import IntegratedAutoencoderKL
    from backend.text_processing import textual_inversion
    from huggingface_guess import model_list
    from transformers import CLIPTextConfig

    class Small(model_list.SD15):
        small = True
        unet_extra_config = {"num_heads": HEADS, "num_head_channels": -1}

        @classmethod
        def matches(cls, unet_config, state_dict=None):
            own = {name: value for name, value in cls.unet_config.items() if not name.endswith(("_dim", "_channels"))}
            return unet_config.get("model_channels", 320) < 128 and own.items() <= unet_config.items()

    model_list.models.append(Small)
    # Forge Neo asks for the very class
    next(kind for kind in loader.possible_models if model_list.SD15 in kind.matched_guesses).matched_guesses.append(
        Small
    )
    load, read = loader.load_huggingface_component, CLIPTextConfig.from_pretrained
    describe = IntegratedAutoencoderKL.load_config

    def of_text(state, *args, **kwargs):
        config = read(*args, **kwargs)
        layers = [name for name in state if name.endswith("mlp.fc1.weight")]
        wide, width = state[layers[0]].shape
        sizes = {"hidden_size": width, "projection_dim": width, "intermediate_size": wide, "hidden_act": "quick_gelu"}
        config.update({**sizes, "num_hidden_layers": len(layers), "num_attention_heads": text_heads(width)})
        return config

    def of_vae(state, width, *args, **kwargs):
        levels = [name for name in state if name.startswith("decoder.up.") and name.endswith("block.0.conv1.weight")]
        # the decoder has one more than the encoder, which may have none
        blocks = sum(name.startswith("decoder.up.0.block.") and name.endswith("conv1.weight") for name in state) - 1
        widths = [state[name].shape[0] for name in sorted(levels)]
        sizes = {"block_out_channels": widths, "layers_per_block": blocks, "scaling_factor": SCALES.get(width, 0.18215)}
        return {**describe(*args, **kwargs), **sizes}

    def known(guess, name, library, kind, path, state):
        if getattr(guess, "small", False):
            width = guess.unet_config["model_channels"]
            guess.latent_format.scale_factor = SCALES.get(width, 0.18215)  # where Forge Neo has it
            CLIPTextConfig.from_pretrained = lambda *a, **k: of_text(state, *a, **k)
            IntegratedAutoencoderKL.load_config = lambda *a, **k: of_vae(state, width, *a, **k)
        try:
            return load(guess, name, library, kind, path, state)
        finally:
            CLIPTextConfig.from_pretrained, IntegratedAutoencoderKL.load_config = read, describe

    loader.load_huggingface_component = known
    begin = textual_inversion.EmbeddingDatabase.__init__
    # users' embeddings are of the small model's width
    textual_inversion.EmbeddingDatabase.__init__ = lambda self, tokenizer, expected_shape=-1: begin(self, tokenizer)


if importlib.util.find_spec("huggingface_guess") is not None:
    tell()
