"""What the tests of targets share: the rules, and a residual of which neither factor is zero."""

import torch
from residual_samples import said

from lib_persres.residual import Factors, Residual
from lib_persres.targets import EVERY
from lib_persres.training.recipe import TARGETS

RULES = (*TARGETS, "attn2", "attn1+attn2", "proj_in+attn2+proj_out", EVERY)
BLOCK = "input_blocks.1.1"
ATTN2 = f"{BLOCK}.transformer_blocks.0.attn2"


def random_residual(unet, rule, rank=3, seed=0, size=0.5):
    """Factors of which neither is zero."""
    generator = torch.Generator().manual_seed(seed)
    made = Residual.initialise(unet, rank, generator, said(), targets=rule)
    for path, f in made.factors.items():
        up = torch.randn(f.up.shape, generator=generator) * size * f.rank**-0.5
        made.factors[path] = Factors(f.down, up)
    return made


def without(residual, *names):
    """The same residual less the targets whose paths end so."""
    kept = {path: f for path, f in residual.factors.items() if not path.endswith(names)}
    return Residual(kept, residual.metadata)
