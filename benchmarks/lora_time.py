"""Time of an image of full-size SD1 with a LoRA of rank 32 on every layer: ours under LAG, and the WebUI's own Lora.

    python -m benchmarks.lora_time files DATA             the model and the LoRA, of random numbers, for --data-dir DATA
    python -m benchmarks.lora_time measure URL --pid PID  on a WebUI with them, --api and --no-half

The kinds take turns in every round. With the pid of the WebUI on this machine seconds are its processor's, which other
work does not change. "built-in" adds the LoRA's output at each layer (the setting lora_functional), "merged" has it in
the weights.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import urllib.request
from pathlib import Path

import torch

from lib_persres.lora.write import save_lora
from lib_persres.metadata import Metadata
from lib_persres.residual import Residual
from lib_persres.standalone.checkpoint import save_sd1
from lib_persres.standalone.modules import AutoencoderKL, build_unet
from lib_persres.standalone.text_encoder import TextEncoder
from lib_persres.standalone.tokenizer import Tokenizer

from .model_sizes import SD1

NAME, PROMPT = "random", "a photo of a dog on a beach"
KINDS = {
    "base": ("", {}),
    "lag": (f"<persres:lora/{NAME}:1:word=dog:lag=on>", {}),
    "plain": (f"<persres:lora/{NAME}:1:lag=off>", {}),
    "built-in": (f"<lora:{NAME}:1>", {"lora_functional": True}),
    "merged": (f"<lora:{NAME}:1>", {"lora_functional": False}),
}


def files(data: Path) -> None:
    unet = build_unet(SD1.unet)
    others = AutoencoderKL(SD1.ddconfig, 4), TextEncoder(SD1.text, Tokenizer.find())
    folder = data / "models" / "Stable-diffusion"
    folder.mkdir(parents=True, exist_ok=True)
    save_sd1(folder / f"{NAME}.safetensors", unet, *others)
    sidecar = folder / f"{NAME}.yaml"
    text = folder.resolve() / "text_encoder"  # the WebUI looks from its own folder
    sidecar.write_text(sidecar.read_text().replace(": text_encoder", f": {text}"))
    facts = Metadata(identifier="dog", base_family="SD1")
    made = Residual.initialise(unet, "32", torch.Generator().manual_seed(0), facts, "unet")
    for factors in made.factors.values():
        factors.up.normal_(0, 1e-3)
    save_lora(made, data / "models" / "Lora" / f"{NAME}.safetensors")


def seconds(url: str, kind: str, steps: int, side: int, pid: int | None) -> float:
    tag, settings = KINDS[kind]
    body = {"prompt": PROMPT + tag, "steps": steps, "width": side, "height": side, "seed": 1, "cfg_scale": 6}
    body |= {"sampler_name": "Euler", "override_settings": settings}
    call = urllib.request.Request(
        f"{url}/sdapi/v1/txt2img", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    began = _clock(pid)
    with urllib.request.urlopen(call) as answer:
        info = json.loads(json.loads(answer.read())["info"])
    took = _clock(pid) - began
    if problems := info["extra_generation_params"].get("Persres problems"):
        raise SystemExit(f"{kind}: {problems}")
    return took


def _clock(pid: int | None) -> float:
    if pid is None:
        return time.perf_counter()
    parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


def measure(url: str, rounds: int, steps: int, side: int, pid: int | None) -> None:
    for kind in KINDS:  # caches are filled
        seconds(url, kind, 1, side, pid)
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind in KINDS:
            # what a step takes: without the text, the autoencoder and the LoRA's merging
            found[kind].append((seconds(url, kind, steps, side, pid) - seconds(url, kind, 1, side, pid)) / (steps - 1))
        print("  ".join(f"{kind} {times[-1]:.2f} s" for kind, times in found.items()), flush=True)
    medians = {kind: statistics.median(times) for kind, times in found.items()}
    for other in ("base", "built-in", "merged"):
        print(f"lag / {other}: {medians['lag'] / medians[other]:.3f}; plain: {medians['plain'] / medians[other]:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("files").add_argument("data", type=Path)
    options = commands.add_parser("measure")
    options.add_argument("url")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--steps", type=int, default=3)
    options.add_argument("--side", type=int, default=SD1.side, help="of the pictures")
    options.add_argument("--pid", type=int)
    args = parser.parse_args()
    if args.command == "files":
        files(args.data)
    else:
        measure(args.url.rstrip("/"), args.rounds, args.steps, args.side, args.pid)


if __name__ == "__main__":
    main()
