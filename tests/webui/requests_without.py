"""Generations that must come out the same with the extension installed but unused."""

from companions import EMBEDDING, OTHER

REQUESTS = {
    "plain": {"prompt": "a photo of a dog"},
    "V* is a word": {"prompt": "a photo of a V* dog"},
    "batch of two": {"prompt": "a dog", "batch_size": 2},
    "AND": {"prompt": "a dog AND a cat :0.7"},
    "schedule": {"prompt": "a [dog:cat:0.5]"},
    "hires": {"prompt": "a dog", "enable_hr": True, "hr_upscaler": "Latent", "denoising_strength": 0.6},
    "hires with another checkpoint": {
        "prompt": "a dog",
        "enable_hr": True,
        "hr_upscaler": "Latent",
        "denoising_strength": 0.6,
        "hr_checkpoint_name": OTHER,
    },
    "refiner": {"prompt": "a dog", "refiner_checkpoint": OTHER, "refiner_switch_at": 0.5, "steps": 4},
    "lora": {"prompt": "a dog <lora:mia:0.7>"},
    "embedding": {"prompt": f"a {EMBEDDING} dog"},
    "style": {"prompt": "a dog", "styles": ["with V*"]},
    "over 75 tokens": {"prompt": "a house, " * 40 + "a dog"},
    "no square": {"prompt": "a dog", "width": 72, "height": 128},
}
