"""The shipped Toybox as the model whose numbers are compared: small, and with weights that were learned."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from lib_persres.branch import Branches
from lib_persres.concepts import Use
from lib_persres.plan import Plans, guidance_rows
from lib_persres.residual import Factors, Residual
from lib_persres.standalone.checkpoint import StableDiffusion, load
from lib_persres.standalone.generate import generate
from lib_persres.toybox import CHECKPOINT
from lib_persres.toybox.concepts import CONCEPTS, photograph
from lib_persres.toybox.world import SIZE
from lib_persres.training.images import load_images
from lib_persres.training.recipe import Recipe, Stage
from lib_persres.training.trainer import Trainer

WAYS = ("base", "plain", "lag")
CONCEPT = CONCEPTS[0]


def loaded(device, precision: str = "float32") -> StableDiffusion:
    return load(CHECKPOINT, device, getattr(torch, precision))


def residual(sd: StableDiffusion) -> Residual:
    """Factors of which neither is zero; the same for a model on any device."""
    generator = torch.Generator().manual_seed(1)
    made = Residual.initialise(sd.unet, "4", generator)
    for factors in made.factors.values():
        factors.up.normal_(0, 0.1, generator=generator)
    made.metadata.concept, made.metadata.macro_class, made.metadata.identifier = CONCEPT.name, CONCEPT.cls, "olis"
    return made


def gradients(
    sd: StableDiffusion, precision: str = "float32", channels_last: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The prediction with a residual under LAG, and the gradients of its factors, in one vector."""
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(2, 4, 16, 16, generator=generator).to(sd.device) for _ in range(2))
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    t = torch.tensor([200, 700], device=sd.device)
    conditioning, _ = sd.encode_prompts([f"a photo of a olis {CONCEPT.cls}", f"a olis {CONCEPT.cls} in snow"])
    plans = Plans([[Use(1.0, gated, ((2, 3, 4, 5),))] for gated in (True, False)])
    learning = {
        name: Factors(*(torch.nn.Parameter(part.to(sd.device)) for part in (f.down, f.up)))
        for name, f in residual(sd).factors.items()
    }
    scale = 1024.0 if precision == "float16" else 1.0
    with Branches(sd.unet, [Residual(learning)]) as branches:
        branches.plan = plans.plan(guidance_rows(2, guided=False), conditioning.length, sd.device)
        eps = sd.unet(x, timesteps=t, **conditioning.arguments()).float()
        (scale * (eps - noise).square().mean()).backward()
    weights = [weight for f in learning.values() for weight in (f.down, f.up)]
    return eps.detach(), torch.cat([weight.grad.flatten() for weight in weights]) / scale


def trainer(device, precision: str | None, *, stays=True, steps=2, recipe: Recipe | None = None) -> Trainer:
    """A training that has not begun; stays: as far as the host says, a graph may be used."""
    stage = Stage(rank="4", steps=steps, batch=3, learning_rate=1e-2, localized=1, keep=1, keep_weight=0.3)
    sd = loaded(device)
    sd.stays = stays
    with tempfile.TemporaryDirectory() as folder:
        photos = load_images(photograph(CONCEPT, Path(folder), count=2))
    recipe = replace(recipe or Recipe("cuda", "a comparison's", (stage,)), crops=0)
    return Trainer(
        sd, photos, CONCEPT.name, CONCEPT.cls, recipe, resolution=SIZE, identifier="olis", precision=precision
    )


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([part.flatten() for f in trainer.residual().factors.values() for part in (f.down, f.up)])


def picture(sd: StableDiffusion, way: str, steps: int) -> torch.Tensor:
    """(1,3,H,W), from one noise."""
    prompt = f"<persres:rex:{0.0 if way == 'base' else 1.0}>a photo of a V* {CONCEPT.cls} in snow"
    options = {"seeds": [3], "width": SIZE, "height": SIZE, "steps": steps, "lag": way == "lag"}
    return generate(sd, prompt, lambda _: residual(sd), **options).images
