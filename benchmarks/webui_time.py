"""Time of an image on a running WebUI: without a residual, with one, and with LAG, as ratios from one run.

    python -m benchmarks.webui_time http://127.0.0.1:7860 --name rex --class ball

The WebUI is one with this extension and --api. The three kinds take turns in every round, in another order each time,
so that a busy machine slows them alike; each ratio is the median over the rounds of a round's own ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import urllib.request

KINDS = ("off", "plain", "lag")


def body(kind: str, args, seed: int) -> dict:
    tag = "" if kind == "off" else f" <persres:{args.name}>"
    # without a tag V* is a word like any other
    prompt = f"a photo of a {'V* ' if tag else ''}{args.noun}{tag}"
    request = {"prompt": prompt, "steps": args.steps, "width": args.size, "height": args.size, "seed": seed}
    request |= {"sampler_name": "Euler", "cfg_scale": 6}
    if kind == "lag":
        request["alwayson_scripts"] = {"Personalized Residuals": {"args": [{"lag": True}]}}
    return request


def seconds(url: str, request: dict) -> tuple[float, str]:
    """The time of an answer, and its infotext."""
    data = json.dumps(request).encode()
    call = urllib.request.Request(f"{url}/sdapi/v1/txt2img", data, {"Content-Type": "application/json"})
    began = time.perf_counter()
    with urllib.request.urlopen(call) as answer:
        answer = json.loads(answer.read())
    return time.perf_counter() - began, json.loads(answer["info"])["infotexts"][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="the WebUI's address")
    parser.add_argument("--name", required=True, help="a residual in its models/persres")
    parser.add_argument("--class", dest="noun", required=True, help="its macro class")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", type=int, default=128)
    args = parser.parse_args()
    url = args.url.rstrip("/")
    for kind in KINDS:  # caches are filled
        text = seconds(url, body(kind, args, 0))[1]
        if kind != "off" and ("Persres hashes" not in text or "Persres not applied" in text):
            raise SystemExit(f"The residual {args.name} was not applied: {text}")
    rounds = []
    for number in range(args.rounds):
        order = KINDS[number % 3 :] + KINDS[: number % 3]
        times = {kind: seconds(url, body(kind, args, number))[0] for kind in order}
        rounds.append(times)
        print("  ".join(f"{kind} {times[kind]:.3f} s" for kind in KINDS), flush=True)
    off = statistics.median(times["off"] for times in rounds)
    print(f"off: {off:.3f} s an image, {args.size}x{args.size}, {args.steps} steps, median of {args.rounds} rounds")
    for kind in KINDS[1:]:
        ratios = sorted(times[kind] / times["off"] for times in rounds)
        print(f"{kind} / off: {statistics.median(ratios):.3f} (from {ratios[0]:.3f} to {ratios[-1]:.3f})")


if __name__ == "__main__":
    main()
