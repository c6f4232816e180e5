"""Generations that must come out the same with the extension installed but unused."""

REQUESTS = {
    "plain": {"prompt": "a photo of a dog"},
    "V* is a word": {"prompt": "a photo of a V* dog"},
    "batch of two": {"prompt": "a dog", "batch_size": 2},
    "AND": {"prompt": "a dog AND a cat :0.7"},
    "schedule": {"prompt": "a [dog:cat:0.5]"},
    "hires": {"prompt": "a dog", "enable_hr": True, "hr_upscaler": "Latent", "denoising_strength": 0.6},
}
