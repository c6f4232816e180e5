"""The recipes that come along. Rates, steps and batches of another paper's method are its own, by the source beside it.

The rank of a full form is that of the factors in its file: 64 is 135 MB of an SD1 UNet.
"""

from __future__ import annotations

from .recipe import Recipe, Stage

_ATTENTIONS = "attn1+attn2"

# Pang et al. 2024, section 5.1 and their public code's defaults
_ALIGN = Stage("embedding", "64", 60, 8, 1e-3, map_mean=0.1)
_REFINE = Stage("attn2", "64", 100, 8, 2e-5, map_mean=2.0, map_variance=5.0)
_CAPTURE = Stage("unet", "64", 500, 8, 2e-6, map_mean=2.0, map_variance=5.0)

_ALL = (
    Recipe("paper", "The paper's: 150 steps of 4 images at 1e-3, rank 0.05 m, for SD1, SD2 and SDXL."),
    Recipe(
        "toybox",
        "For the Toybox's small widths: rank 16, 300 steps at 2e-2 and falling, all under LAG.",
        (
            Stage(
                rank="16",
                steps=300,
                learning_rate=2e-2,
                decay=True,
                t_power=1.0,
                localized=4,
                keep=1,
                keep_weight=0.15,
            ),
        ),
        crops=0,
    ),
    Recipe(
        "attndreambooth",
        "AttnDreamBooth: the word, then where it looks, then the whole UNet. Obeys long prompts well; slow.",
        (_ALIGN, _REFINE, _CAPTURE),
        form="full",
        start="class",
    ),
    Recipe(
        "attndreambooth-fast",
        "AttnDreamBooth with a third stage of 100 steps at 1e-5 instead of 500 at 2e-6.",
        (_ALIGN, _REFINE, Stage("unet", "64", 100, 8, 1e-5, map_mean=2.0, map_variance=5.0)),
        form="full",
        start="class",
    ),
    Recipe(
        "word-first",
        "The word first, as in AttnDreamBooth, then the paper's residual: closer to the concept on the Toybox.",
        (Stage("embedding", steps=60, batch=8, map_mean=0.1), Stage()),
        start="class",
    ),
    Recipe(
        "attn-residual",
        "AttnDreamBooth's stages with residuals: the word, keys and values, proj_out. Small.",
        (
            Stage("embedding", steps=60, batch=8, map_mean=0.1),
            Stage("kv", steps=50, batch=8, map_mean=2.0, map_variance=5.0),
            Stage("proj_out", steps=150, map_mean=2.0, map_variance=5.0),
        ),
        start="class",
    ),
    # Gal et al. 2023 as diffusers' example trains it: 3000 steps of 4 at 5e-4 a picture
    Recipe(
        "textual-inversion",
        "Textual Inversion: the word alone. A file of a few KB; catches a style or a kind rather than one thing.",
        (Stage("embedding", steps=3000, learning_rate=2e-3),),
        start="class",
    ),
    # Ruiz et al. 2023 as diffusers' example trains it: with prior preservation 800 steps, else 400, at 5e-6
    Recipe(
        "dreambooth",
        "DreamBooth with prior preservation: the whole UNet, beside pictures of the class. Faithful; slow, large.",
        (Stage("unet", "64", 800, 1, 5e-6, prior=1),),
        form="full",
    ),
    Recipe(
        "dreambooth-plain",
        "DreamBooth without prior preservation: faster, and the class may come to look like the concept.",
        (Stage("unet", "64", 400, 1, 5e-6),),
        form="full",
    ),
    # Kumari et al. 2023: 250 steps of 8 at 8e-5, the weights of keys and values, and 200 pictures of the class
    Recipe(
        "custom-diffusion",
        "Custom Diffusion: keys, values and the word, beside pictures of the class. Obeys prompts; less faithful.",
        (Stage("embedding+kv", "64", 250, 8, 8e-5, prior=8),),
        form="full",
    ),
    # Pang et al. 2024, appendix A
    Recipe(
        "ti+db",
        "Textual Inversion and DreamBooth at once: the word and the whole UNet.",
        (Stage("embedding+unet", "64", 660, 8, 2e-6),),
        form="full",
        start="class",
    ),
    # Qiu et al. 2023: Cayley's rotations in 4 blocks, as their public code trains them for a subject
    Recipe(
        "oft",
        "OFT: rotations of the attentions' inputs, which keep angles between neurons. Stable; a large file.",
        (Stage(_ATTENTIONS, "64", 1000, 1, 6e-5, prior=1),),
        form="orthogonal",
    ),
    # Hu et al. 2022 as diffusers' example trains it for a subject: rank 4, 500 steps of 1 at 1e-4
    Recipe(
        "lora",
        "LoRA of rank 4 on all attentions: small and well known.",
        (Stage(_ATTENTIONS, "4", 500, 1, 1e-4),),
    ),
)

RECIPES = {recipe.name: recipe for recipe in _ALL}

STANDARD = "paper"
"""The recipe of every model but the Toybox."""


def recipe_of(name: str | None, is_toybox: bool) -> Recipe:
    """That of a name of RECIPES; of none, the model's own."""
    return RECIPES[name or ("toybox" if is_toybox else STANDARD)]
