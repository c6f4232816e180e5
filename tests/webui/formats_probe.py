"""Draws with each checkpoint that is named, by the WebUI's own model classes without the WebUI; its Python runs this.

    python formats_probe.py REPOSITORIES OUT CHECKPOINT...

Each model is made from its yaml as a whole (ldm's LatentDiffusion, sgm's DiffusionEngine) and takes every tensor of its
file. OUT gets a .pt: for each checkpoint its contexts, one eps, the pictures, and what its file lacks.
"""

import os
import sys
from pathlib import Path

repositories, out, *checkpoints = sys.argv[1:]
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
sys.path[:0] = [f"{repositories}/{name}" for name in ("generative-models", "stable-diffusion-stability-ai")]

import open_clip  # noqa: E402
import torch  # noqa: E402
from ldm.util import instantiate_from_config  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel  # noqa: E402

PROMPTS = ["a photo of a red ball on grass", "a blue star left of a green box on sand", "two moons, at night !"]
NEGATIVE = "blurry"
STEPS, GUIDANCE, SIDE = 8, 5.0, 16

# the folder beside a checkpoint has sizes alone, and the weights come with the checkpoint: the WebUI does the same
CLIPTextModel.from_pretrained = classmethod(lambda cls, folder: cls(CLIPTextConfig.from_pretrained(folder)))


def load(path: Path):
    config = OmegaConf.load(path.with_suffix(".yaml")).model
    params = config.params
    embedders = params.conditioner_config.params.emb_models if "conditioner_config" in params else []
    for embedder in [*embedders, params.get("cond_stage_config")]:
        if embedder is None:
            continue
        if embedder.params.get("version"):
            embedder.params.version = str(path.parent / embedder.params.version)
        if embedder.target.rpartition(".")[2].startswith("Frozen"):
            embedder.params.device = "cpu"
        if "arch" in embedder.params:
            open_clip.add_model_config(path.with_name(path.stem + "_text_encoder") / f"{embedder.params.arch}.json")
    model = instantiate_from_config(config).eval()
    missing, unexpected = model.load_state_dict(
        {name: t.float() if t.is_floating_point() else t for name, t in load_file(path).items()}, strict=False
    )
    return model, sorted(missing), sorted(unexpected)


class Ldm:
    def __init__(self, model):
        self.model, self.alphas = model, model.alphas_cumprod

    def condition(self, texts):
        return {"crossattn": self.model.get_learned_conditioning(texts)}

    def eps(self, x, t, condition):
        return self.model.model(x, t, c_crossattn=[condition["crossattn"]])


class Sgm:
    def __init__(self, model):
        self.model, self.alphas = model, 1 / (1 + model.denoiser.sigmas**2)

    def condition(self, texts, side=8 * SIDE):
        size = torch.tensor([[side, side]]).repeat(len(texts), 1)
        sizes = {"original_size_as_tuple": size, "crop_coords_top_left": 0 * size, "target_size_as_tuple": size}
        return self.model.conditioner({"txt": texts, **sizes})

    def eps(self, x, t, condition):
        return self.model.model(x, t, condition)


def draw(host, start):
    """Plain DDIM with guidance -> images (b,3,h,w) in [0,255]."""
    condition, negative = host.condition(PROMPTS), host.condition([NEGATIVE] * len(PROMPTS))
    times = torch.linspace(999, 0, STEPS + 1).long()
    x = start
    for now, after in zip(times, times[1:]):
        t = now.repeat(len(x))
        with_text, without = host.eps(x, t, condition), host.eps(x, t, negative)
        eps = without + GUIDANCE * (with_text - without)
        a, b = host.alphas[now], host.alphas[after]
        x = b.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps
    return 127.5 * (host.model.decode_first_stage(x).clamp(-1, 1) + 1)


made = {}
generator = torch.Generator().manual_seed(3)
start = torch.randn(len(PROMPTS), 4, SIDE, SIDE, generator=generator)
with torch.no_grad():
    for path in map(Path, checkpoints):
        model, missing, unexpected = load(path)
        host = Sgm(model) if hasattr(model, "conditioner") else Ldm(model)
        condition = host.condition(PROMPTS)
        t = torch.tensor([900, 500, 100])
        made[path.stem] = {
            "missing": missing,
            "unexpected": unexpected,
            "alphas": host.alphas,
            "context": condition["crossattn"],
            "eps": host.eps(start, t, condition),
            "images": draw(host, start),
        }
        if isinstance(host, Sgm):
            other = {**host.condition(PROMPTS, 1024), "crossattn": condition["crossattn"]}
            made[path.stem]["vectors"] = condition["vector"], other["vector"]
            made[path.stem]["eps_of_another_vector"] = host.eps(start, t, other)
torch.save(made, out)
