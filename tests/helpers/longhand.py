"""Equations 2 and 3 of the paper computed the long way in float64, and small UNets to compare with.

Nothing here uses the code under test: blocks are found by ldm's class, maps are materialised head by head,
and W' is written out.
"""

import contextlib
import copy
import hashlib
import math

import torch
from standalone_models import tiny_unet

from lib_persres.residual import Factors, Residual

TOKENS = 12  # of a context, instead of 77


def random_(module, seed=0):
    """Random values for every weight, those that ldm starts at zero or one included."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in module.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim > 1:
            # sharper attention, so that pixels differ in where they look
            gain = 2.5 if ".attn2.to_q" in name or ".attn2.to_k" in name else 1.0
            weight.data = gain * noise * weight[0].numel() ** -0.5
        else:
            weight.data = 0.2 * noise + (1.0 if name.endswith("weight") else 0.0)
    return module.eval().requires_grad_(False)


def make_unet(linear=False, depth=1, seed=0):
    return random_(tiny_unet(use_linear_in_transformer=linear, transformer_depth=depth), seed)


def run(unet, x, t, context):
    return unet(x, t, context)


def inputs(rows, size=(8, 8), seed=0, tokens=TOKENS):
    """Latents, timesteps and contexts that differ in each row."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, *size, generator=generator)
    t = torch.randint(1000, (rows,), generator=generator)
    return x, t, torch.randn(rows, tokens, 32, generator=generator)


def transformers(unet):
    return {name: m for name, m in unet.named_modules() if hasattr(m, "transformer_blocks") and hasattr(m, "proj_out")}


def random_residual(unet, rank, seed=0, size=0.5):
    """Factors of which neither is zero; ΔW's share of the output is about `size`."""
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for name, block in transformers(unet).items():
        m_out, m_in = block.proj_out.weight.shape[:2]
        down = torch.randn(rank, m_in, generator=generator) * m_in**-0.5
        up = torch.randn(m_out, rank, generator=generator) * size * rank**-0.5
        factors[f"{name}.proj_out"] = Factors(down, up)
    return Residual(factors)


def merged(unet, residuals, strengths):
    """A copy of the UNet with W' = W + Σ s·up·down in place of W; modules that hold no such weight are shared."""
    copied = {target[:end] for r in residuals for target in r.factors for end in _ends(target)}
    unet = copy.deepcopy(unet, {id(module): module for name, module in unet.named_modules() if name not in copied})
    for residual, s in zip(residuals, strengths, strict=True):
        for target, f in residual.factors.items():
            weight = unet.get_submodule(target).weight
            weight.data += (s * (f.up.double() @ f.down.double())).float().view_as(weight)
    return unet


def _ends(path):
    """Where a module's path and those of the modules around it end."""
    return [0, *(at for at, sign in enumerate(path) if sign == "."), len(path)]


class Seen:
    """What one transformer block computed: proj_out's input and output, the cross-attentions' inputs."""

    def __init__(self):
        self.x = self.out = None
        self.attentions = []


@contextlib.contextmanager
def watch(unet):
    """Block name -> Seen, filled by the next forward. Enter it after the code under test has its hooks."""
    seen = {name: Seen() for name in transformers(unet)}
    handles = []
    for name, block in transformers(unet).items():

        def projected(module, args, output, record=seen[name]):
            record.x, record.out = args[0].detach().clone(), output.detach().clone()

        def attended(module, args, kwargs, record=seen[name]):
            given = [kwargs[name] for name in ("context", "encoder_hidden_states") if name in kwargs]
            context = given[0] if given else args[1]
            record.attentions.append((module, args[0].detach().clone(), context.detach().clone()))

        handles.append(block.proj_out.register_forward_hook(projected))
        for layer in block.transformer_blocks:
            handles.append(layer.attn2.register_forward_pre_hook(attended, with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def attention_map(attention, x, context):
    """Equation 2, mean over heads: (b, hw, n)."""
    q = x.double() @ attention.to_q.weight.double().T
    k = context.double() @ attention.to_k.weight.double().T
    d = q.shape[-1] // attention.heads
    total = 0
    for head in range(attention.heads):
        part = slice(head * d, (head + 1) * d)
        scores = (q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(d)).exp()
        total = total + scores / scores.sum(-1, keepdim=True)
    return total / attention.heads


def median(values):
    """The middle of the sorted values, or the mean of the two in the middle."""
    ordered, n = values.sort().values, len(values)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def mask_of(seen, row, tokens):
    """M_i of one row: (hw,) of 0 and 1; the mean over the block's layers."""
    layers = [attention_map(*attention)[row] for attention in seen.attentions]
    concept = sum(layer[:, list(tokens)].sum(-1) for layer in layers) / len(layers)
    return (concept > median(concept)).double()


def project(weight, bias, x):
    """Wx + b of one row: (m_out, hw) from a feature map (m_in, h, w) or tokens (hw, m_in)."""
    x = (x.flatten(1) if x.ndim == 3 else x.T).double()
    return weight.flatten(1).double() @ x + bias.double()[:, None]


def equation_3(proj_out, x, deltas, masks):
    """(1-M)⊗f + M⊗f' of one row; with several concepts their changes to f add up. (m_out, hw)"""
    f = project(proj_out.weight, proj_out.bias, x)
    out = f.clone()
    for delta, mask in zip(deltas, masks, strict=True):
        w_changed = proj_out.weight.flatten(1).double() + delta
        f_changed = project(w_changed, proj_out.bias, x)
        out += (1 - mask) * f + mask * f_changed - f
    return out


def delta(residual, block, strength):
    f = residual.factors[f"{block}.proj_out"]
    return strength * (f.up.double() @ f.down.double())


def row_of(out, row):
    """(m_out, hw) of a block's output, conv or linear."""
    return (out[row].flatten(1) if out.ndim == 4 else out[row].T).double()


def snapshot(unet):
    """Everything that an extension could leave behind on a UNet."""
    modules = {}
    for name, module in unet.named_modules():
        attributes = {key: id(value) for key, value in vars(module).items()}
        hooks = {key: list(value) for key, value in vars(module).items() if "hooks" in key and value}
        modules[name] = (type(module), attributes, hooks, module.training)
    # hashes, since a failing comparison prints what it compares
    weights = {
        name: (hashlib.sha256(weight.numpy().tobytes()).hexdigest()[:16], weight.data_ptr())
        for name, weight in unet.state_dict().items()
    }
    flags = {name: (w.requires_grad, w.grad is None) for name, w in unet.named_parameters()}
    return modules, weights, flags
