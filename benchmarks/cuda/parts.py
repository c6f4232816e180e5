"""The parts of `dev.py cuda`: python -m benchmarks.cuda.parts PART --device cuda --out FILE

Each is a function of a `Bench`, to which it tells what it found as soon as it has it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from lib_persres.errors import PersresError
from lib_persres.training.precision import PRECISIONS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "torch numpy pillow safetensors transformers tokenizers stable-diffusion-sdkit pytest diffusers peft accelerate"
).split()
HALVES = ("bfloat16", "float16")


class Bench:
    """What a part measures on, and where it tells. size: a full model on a card, a small one to rehearse on."""

    def __init__(self, device: str, out: Path | None = None):
        from ..model_sizes import SD1, TINY

        self.device, self.out = torch.device(device), out
        self.is_cuda = self.device.type == "cuda"
        self.size = SD1 if self.is_cuda else TINY
        self.found: dict = {}

    def _keep(self) -> None:
        if self.out is not None:
            new = self.out.with_name(self.out.name + ".new")
            new.write_text(json.dumps(self.found), encoding="utf-8")
            os.replace(new, self.out)

    def card(self, **facts) -> None:
        self.found.setdefault("card", {}).update(facts)
        self._keep()

    def row(self, **row) -> None:
        print(row, flush=True)
        self.found.setdefault("rows", []).append(row)
        self._keep()

    def note(self, text: str) -> None:
        print(text, flush=True)
        self.found.setdefault("notes", []).append(text)
        self._keep()

    def check(self, what: str, value: float, bound: float) -> None:
        """What should be at most so much; what is no number is not."""
        ok = bool(value <= bound)
        print(f"{what}: {value:.3g} of at most {bound:.3g}", flush=True)
        value = value if math.isfinite(value) else str(value)
        self.found.setdefault("checks", []).append({"what": what, "value": value, "bound": bound, "ok": ok})
        self._keep()

    def figures(self, found: dict[str, tuple[float, str]]) -> None:
        named = {name: {"value": value, "note": note} for name, (value, note) in found.items()}
        self.found.setdefault("figures", {}).update(named)
        self._keep()

    def synchronize(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()

    @contextlib.contextmanager
    def peak(self):
        """A list that holds, at the end, the most MiB that were allocated on the card meanwhile."""
        peak = []
        if self.is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        yield peak
        peak.append(round(torch.cuda.max_memory_allocated() / 2**20) if self.is_cuda else None)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """‖one - other‖ / ‖other‖"""
    one, other = one.detach().double().cpu(), other.detach().double().cpu()
    return ((one - other).norm() / other.norm()).item()


# -- the parts -----------------------------------------------------------------------------------------------


def card(bench: Bench) -> None:
    """What there is, and how fast its matrix products are."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    name, more = "CPU", {}
    if bench.is_cuda:
        facts = torch.cuda.get_device_properties(0)
        name = torch.cuda.get_device_name()
        more = {
            "compute capability": f"{facts.major}.{facts.minor}",
            "memory": f"{facts.total_memory / 2**30:.1f} GiB",
            "CUDA of torch": torch.version.cuda,
            "cuDNN": torch.backends.cudnn.version(),
            "bfloat16": torch.cuda.is_bf16_supported(),
            "TF32 in convolutions": torch.backends.cudnn.allow_tf32,
            "TF32 in products": torch.backends.cuda.matmul.allow_tf32,
        }
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            more["driver"] = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip()
    bench.card(name=name, **more, packages=", ".join(f"{key} {value}" for key, value in versions.items()))
    side = 8192 if bench.is_cuda else 256
    for precision in PRECISIONS:
        a = torch.randn(side, side, device=bench.device).to(getattr(torch, precision))
        a @ a
        bench.synchronize()
        started = time.perf_counter()
        for _ in range(10):
            a @ a
        bench.synchronize()
        rate = 10 * 2 * side**3 / (time.perf_counter() - started) / 1e12
        bench.row(product=f"{side}x{side}", precision=precision, tflops=round(rate, 2))


def tests(bench: Bench) -> None:
    """Those marked with `cuda`; the files that have none are not even read."""
    files = [
        str(path)
        for path in sorted((ROOT / "tests" / "unit").rglob("test_*.py"))
        if "pytest.mark.cuda" in path.read_text(encoding="utf-8")
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", "-rA", *files]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, flush=True)
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|error|skipped)", done.stdout)}
    bench.row(**{word: counts.get(word, 0) for word in ("passed", "failed", "error", "skipped")})
    if done.returncode or (bench.is_cuda and not counts.get("passed")):
        raise PersresError(f"pytest ended with {done.returncode}: {counts}; the log has its lines")


def lean(bench: Bench) -> None:
    """The Toybox's prediction and a residual's gradients, against those of its own layers in fp32 on the CPU."""
    from lib_persres.training.computing import tolerance
    from lib_persres.training.frozen import frozen, weights_in
    from lib_persres.training.frozen import lean as lean_layers

    from . import toybox

    reference = toybox.gradients(toybox.loaded("cpu"))
    sd = toybox.loaded(bench.device)
    for precision in PRECISIONS:
        dtype = getattr(torch, precision)
        found = {}
        with frozen(sd.unet), weights_in(sd.unet, precision):
            found["own"] = toybox.gradients(sd, precision)
            with lean_layers(sd.unet):
                found["lean"] = toybox.gradients(sd, precision)
                found["lean, channels last"] = toybox.gradients(sd, precision, channels_last=True)
        for layers, (eps, gradient) in found.items():
            errors = [apart(a, b) for a, b in zip((eps, gradient), reference)]
            bench.row(precision=precision, layers=layers, prediction=errors[0], gradients=errors[1])
            if layers != "own":
                bound = tolerance(dtype, bench.device)
                bench.check(f"{precision}, {layers}: prediction, from the own", apart(eps, found["own"][0]), bound)
                bench.check(f"{precision}, {layers}: gradients", apart(gradient, found["own"][1]), 3 * bound)


def graph(bench: Bench) -> None:
    """The same training of the Toybox by a graph and by separate kernels: losses, what is learned, notes."""
    from . import toybox

    steps = 12 if bench.is_cuda else 2
    for precision in PRECISIONS:
        made = {}
        for name, stays in (("kernels", False), ("graph", True)):
            trainer = toybox.trainer(bench.device, precision, stays=stays, steps=steps)
            start, seconds = toybox.weights(trainer), []
            with trainer:
                for _ in range(steps):
                    started = time.perf_counter()
                    trainer.step()
                    seconds.append(time.perf_counter() - started)
                recorded = trainer._graph is not None
            made[name] = trainer.losses, toybox.weights(trainer)
            for note in trainer.notes:
                bench.note(f"{precision}, {name}: {note}")
            bench.row(precision=precision, way=name, recorded=recorded, ms=1e3 * statistics.median(seconds))
            if name == "graph" and bench.is_cuda:
                bench.check(f"{precision}: steps that are no graph", float(not recorded), 0)
        (losses, ours), (others, theirs) = made["graph"], made["kernels"]
        bench.check(f"{precision}: losses", max(abs(a / b - 1) for a, b in zip(losses, others)), 0.02)
        bench.check(f"{precision}: what is learned", ((ours - theirs).norm() / (theirs - start).norm()).item(), 0.1)


def recipes(bench: Bench) -> None:
    """Two steps of each stage of each recipe, and its residual."""
    from lib_persres.training.recipes import RECIPES

    from . import toybox

    failed = []
    for name, recipe in RECIPES.items():
        started = time.perf_counter()
        row = {"recipe": name}
        try:
            trainer = toybox.trainer(bench.device, None, recipe=recipe.changed(steps=2, class_images=2))
            with trainer:
                while not trainer.finished:
                    trainer.step()
            trainer.residual()
            row |= {"state": "done", "loss": trainer.losses[-1], "notes": " ".join(trainer.notes)}
        except Exception as error:  # the next recipe is tried all the same
            failed.append(name)
            row |= {"state": "failed", "notes": f"{type(error).__name__}: {error}"[:300]}
        bench.row(**row, seconds=round(time.perf_counter() - started, 1))
    if failed:
        raise PersresError(f"not done: {', '.join(failed)}")


def draw(bench: Bench) -> None:
    """The Toybox's pictures against those of the CPU in fp32."""
    from . import toybox

    steps = 10 if bench.is_cuda else 2
    expected = {way: toybox.picture(toybox.loaded("cpu"), way, steps) for way in toybox.WAYS}
    for precision in PRECISIONS:
        sd = toybox.loaded(bench.device, precision)
        for way in toybox.WAYS:
            toybox.picture(sd, way, 1)
            bench.synchronize()
            started = time.perf_counter()
            found = toybox.picture(sd, way, steps)
            seconds = time.perf_counter() - started
            grey = 255 * (found.cpu() - expected[way]).abs().mean().item()
            bench.row(precision=precision, way=way, seconds=round(seconds, 3), grey_levels_apart=grey)
            # a mask's edge may fall on another pixel; another picture is 30 and more away
            bench.check(f"{precision}, {way}: grey levels", grey, 2.0 if precision == "float32" else 10.0)


def cost(bench: Bench) -> None:
    from ..cost import cost_sd1

    bench.figures(cost_sd1(size=bench.size))


def train(bench: Bench) -> None:
    """Without the peer where it is not installed: what needs none is measured all the same."""
    from .. import training_speed as speed

    side, batch, rounds = (512, 4, 30) if bench.is_cuda else (bench.size.side, 1, 3)
    precision = "bfloat16" if bench.is_cuda else "float32"
    names, problem = speed.CONTENDERS, None
    try:
        runners = speed.compare(side, batch, precision, rounds, bench.size, names)
    except PersresError as error:
        if not str(error).startswith("peer failed"):
            raise
        problem = error
        bench.note(f"Without diffusers + peft: {error}")
        runners = speed.compare(side, batch, precision, rounds, bench.size, names[1:])
    print(speed.report(runners), flush=True)
    bench.figures(speed.figures_of(runners, side, batch))
    for name, runner in runners.items():
        bench.row(
            trainer=name,
            setup_s=runner.setup["seconds"],
            first_s=runner.setup["first"],
            step_s=statistics.median(runner.steps),
            all_s=runner.seconds(),
            peak_mib=round(runner.peak / 2**20),
        )
    if problem is not None:
        raise PersresError(str(problem))


def speed(bench: Bench) -> None:
    """The paper's step at full size, each in a precision, with and without the graph and checkpointing."""
    from ..training_contenders import Persres

    side, batch, steps = (bench.size.side, 4, 12) if bench.is_cuda else (bench.size.side, 1, 2)
    for precision in HALVES:
        for way in ("graph", "kernels", "checkpointing"):
            with bench.peak() as peak:
                contender = Persres(bench.device, getattr(torch, precision), bench.size, side, batch, 150)
                contender.host.stays = way != "kernels"
                contender.setup(checkpointing=way == "checkpointing")
                seconds = []
                for _ in range(steps):
                    started = time.perf_counter()
                    contender.step()
                    bench.synchronize()
                    seconds.append(time.perf_counter() - started)
                contender.trainer.__exit__()
            for note in contender.trainer.notes:
                bench.note(f"{precision}, {way}: {note}")
            row = {"precision": precision, "way": way, "first_s": seconds[0], "step_s": statistics.median(seconds[1:])}
            bench.row(**row, peak_mib=peak[0])
            del contender


PARTS = {f.__name__: f for f in (card, tests, lean, graph, recipes, draw, cost, train, speed)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    try:
        PARTS[options.part](Bench(options.device, options.out))
    except PersresError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
