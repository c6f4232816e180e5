"""What the branches cost on the full-size SD1 UNet (random weights): time and peak memory of a guidance step."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch

from lib_persres.branch import Branches
from lib_persres.concepts import Use
from lib_persres.evaluation.drawing import peak_bytes
from lib_persres.masks import DEFAULT, MASKS
from lib_persres.plan import Plan, Plans, guidance_rows
from lib_persres.residual import Residual
from lib_persres.standalone.modules import build_unet
from lib_persres.unet import find_blocks

from .model_sizes import SD1, SIZES, ModelSize

TOKENS = 77
COSTS = {"lag": DEFAULT, "median": "median"}
"""Figure -> its mask."""


def params_sd1() -> dict[str, int]:
    with torch.device("meta"):
        unet = build_unet(SD1.unet)
    blocks = find_blocks(unet)
    if len(blocks) != 16:
        raise RuntimeError(f"SD1's UNet has 16 transformer blocks, {len(blocks)} were found.")
    with torch.device("meta"):
        return {"params.sd1": Residual.initialise(unet).parameters_count()}


def random_unet(size: ModelSize, device: str = "cpu", dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A UNet with small random weights."""
    with torch.device("meta"):
        unet = build_unet(size.unet)
    unet = unet.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    for weight in unet.parameters():
        weight.uniform_(-0.02, 0.02)
    return unet


def random_residual(unet: torch.nn.Module) -> Residual:
    residual = Residual.initialise(unet, generator=torch.Generator().manual_seed(0))
    for factors in residual.factors.values():
        factors.up.normal_(0, 0.01)
    return residual


def plans(device: str = "cpu") -> dict[str, Plan | None]:
    """One image's conditional and unconditional row: the base model, plain sampling, LAG on two tokens."""
    rows = guidance_rows(1)
    plain, lag = (Plans([[Use(1.0, gated, ((5, 6),))]]).plan(rows, TOKENS, device) for gated in (False, True))
    return {"base": None, "plain": plain, "lag": lag}


class Clock:
    """Adds up the time spent inside the hooks that are on a UNet now."""

    def __init__(self, unet: torch.nn.Module):
        self.inside = 0.0
        for module in unet.modules():
            for hooks in (module._forward_hooks, module._forward_pre_hooks):
                for number, hook in hooks.items():
                    hooks[number] = self._timed(hook)

    def _timed(self, hook):
        def run(*args):
            started = time.perf_counter()
            try:
                return hook(*args)
            finally:
                self.inside += time.perf_counter() - started

        return run


def timed(call) -> float:
    """Its seconds."""
    started = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


@torch.no_grad()
def step(unet, x, context):
    return timed(lambda: unet(x, timesteps=torch.full((len(x),), 500, device=x.device), context=context))


def inputs(size: ModelSize, device: str, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, size.latent, size.latent, generator=generator).to(device, dtype)
    return x, torch.randn(2, TOKENS, size.context, generator=generator).to(device, dtype)


def cost_sd1(rounds: int = 3, size: ModelSize = SD1) -> dict[str, tuple[float, str]]:
    """On CPU 1 + (time inside our hooks) / (time of the base step); on CUDA the whole step over the base step."""
    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", torch.float16) if cuda else ("cpu", torch.float32)
    unet = random_unet(size, device, dtype)
    x, context = inputs(size, device, dtype)
    times: dict[str, list[float]] = {name: [] for name in ("base", "plain", *COSTS)}
    inside: dict[str, list[float]] = {name: [] for name in times}
    residual = random_residual(unet)
    for name, mask in COSTS.items():
        with Branches(unet, [residual], MASKS[mask]()) as branches:
            clock = Clock(unet)
            for index in range((40 if cuda else rounds) + 1):
                for kind, plan in plans(device).items():
                    branches.begin(index, 0.5)  # to a mask, a step of a sampling
                    branches.plan, clock.inside = plan, 0.0
                    seconds = step(unet, x, context)
                    if index:  # the first round warms up
                        times[name if kind == "lag" else kind].append(seconds)
                        inside[name if kind == "lag" else kind].append(clock.inside)
    del unet, branches
    base = statistics.median(times["base"])
    found = {}
    for name in ("plain", *COSTS):
        if cuda:
            value = statistics.median(times[name]) / base
            note = f"whole step on {torch.cuda.get_device_name()}, {base * 1e3:.1f} ms base"
        else:
            value = 1 + statistics.median(inside[name]) / base
            note = f"hooks {statistics.median(inside[name]) * 1e3:.1f} ms, base step {base:.2f} s on CPU"
        found[f"cost.{name}"] = (value, note)
    peaks = {name: _peak(name, size) for name in ("base", "lag")}
    found["cost.lag_memory"] = (
        peaks["lag"] / peaks["base"],
        f"peak {peaks['lag'] / 2**20:.0f} MiB against {peaks['base'] / 2**20:.0f} MiB, weights included",
    )
    return found


def _peak(name: str, size: ModelSize) -> int:
    """Peak memory in bytes of a fresh process that makes two steps."""
    command = [sys.executable, "-m", "benchmarks.cost", name, "--size", size.name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed; the lines above say why")
    return json.loads(done.stdout.splitlines()[-1])["peak"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of two guidance steps of a UNet with random weights.")
    parser.add_argument("plan", choices=("base", "plain", "lag"))
    parser.add_argument("--size", choices=SIZES, default=SD1.name)
    options = parser.parse_args()
    name, size = options.plan, SIZES[options.size]
    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", torch.float16) if cuda else ("cpu", torch.float32)
    unet = random_unet(size, device, dtype)
    residual = random_residual(unet)
    with Branches(unet, [residual], MASKS[DEFAULT]()) as branches:
        branches.plan = plans(device)[name]
        for index in range(2):
            branches.begin(index, index / 2)
            step(unet, *inputs(size, device, dtype))
    print(json.dumps({"plan": name, "peak": peak_bytes(torch.device(device))}))


if __name__ == "__main__":
    main()
