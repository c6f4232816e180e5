"""Everything that waits for a CUDA card, in one call of at most nine minutes; a report in a folder.

Each part runs in a process of its own with a limit of its own. Its lines, its numbers and the report are on the disk
as soon as it ends, however it ends, and the others run all the same. Needs a Python with torch for CUDA, the project's
requirements, and for the comparison requirements-peer.txt; what is not there costs its own part alone.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from .report import write

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 530.0
"""Of all parts together; what comes before and after is less than ten more."""
LEAST = 10.0
"""With less time left a part is not begun."""
REHEARSAL = 4
"""So much longer a rehearsal on a CPU may take."""


@dataclass(frozen=True)
class Part:
    """name: of the function in `parts`. limit: seconds."""

    name: str
    limit: float
    about: str


PARTS = (
    Part("card", 60, "the card and what is installed"),
    Part("tests", 90, "the tests that need a card"),
    Part("lean", 60, "the lean layers against the model's own, in each precision"),
    Part("graph", 80, "the CUDA graph of a training step against separate kernels, in each precision"),
    Part("recipes", 80, "two steps of each recipe's stages"),
    Part("draw", 60, "pictures plainly and under LAG, in each precision"),
    Part("cost", 80, "the figures cost.*"),
    Part("train", 140, "the figures train.*, beside a plain loop and diffusers + peft"),
    Part("speed", 80, "a step with and without the graph, in bfloat16 and float16: seconds and peak memory"),
)
"""In the order of what is missed most."""


def card_problem(python: str, device: str) -> str | None:
    """One sentence where this Python can do nothing on the device."""
    code = "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.is_available())"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        return f"{python} cannot import torch ({lines[-1]}): nothing was measured."
    version, cuda, there = done.stdout.split()[-3:]
    if device == "cuda" and there != "True":
        built = "built without CUDA" if cuda == "None" else f"built for CUDA {cuda}"
        return (
            f"There is no CUDA card here that torch {version} ({built}) can use: nothing was measured "
            "(--device cpu rehearses all of it on small sizes)."
        )
    return None


def command_of(part: Part, device: str, result: Path) -> list[str]:
    return [sys.executable, "-m", "benchmarks.cuda.parts", part.name, "--device", device, "--out", str(result)]


def run(part: Part, device: str, folder: Path, seconds: float) -> dict:
    """What became of a part: its state is done, failed (with the last line of its log), or out of time."""
    result, log = folder / f"{part.name}.json", folder / f"{part.name}.log"
    result.unlink(missing_ok=True)
    command = command_of(part, device, result)
    started = time.monotonic()
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            state = "done" if process.wait(seconds) == 0 else "failed"
        except subprocess.TimeoutExpired:
            state = "out of time"
        finally:
            _end(process)
    outcome = {"part": part.name, "about": part.about, "state": state, "limit": round(seconds)}
    outcome["seconds"] = round(time.monotonic() - started, 1)
    if state != "done":
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1] if lines else f"it ended with {process.returncode} and said nothing"
        outcome["error"] = (f"its last line: {last}" if state == "out of time" else last)[:300]
    try:  # also of a part that did not end: what it had measured
        outcome |= json.loads(result.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        pass
    if state == "done" and any(not check["ok"] for check in outcome.get("checks", [])):
        outcome["state"] = "differs"
    return outcome


def _end(process: subprocess.Popen) -> None:
    """It, and what it started."""
    if hasattr(os, "killpg"):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    else:
        process.kill()
    process.wait()


def main(arguments: list[str] | None = None) -> int:
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(
        prog="dev.py cuda",
        description=__doc__,
        epilog="\n".join(f"  {part.name:8} {part.about}" for part in PARTS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="of those below; all without any")
    parser.add_argument("--out", type=Path, default=Path("outputs/cuda"), help="the report's folder (%(default)s)")
    parser.add_argument("--seconds", type=float, help=f"for all parts together ({SECONDS:.0f})")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: rehearse on small sizes what is to be run"
    )
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.parts if name not in names]:
        parser.error(f"there is no part {unknown[0]!r}; they are {', '.join(names)}")
    if problem := card_problem(sys.executable, options.device):
        print(problem, file=sys.stderr)
        return 1
    chosen = [part for part in PARTS if not options.parts or part.name in options.parts]
    folder = options.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    factor = REHEARSAL if options.device == "cpu" else 1
    seconds = SECONDS * factor if options.seconds is None else options.seconds
    end = time.monotonic() + seconds
    facts = {
        "device": options.device,
        "began": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": sys.version.split()[0],
        "seconds": seconds,
        "parts": [],
    }
    for part in chosen:
        left = end - time.monotonic()
        if left < LEAST:
            outcome = {"part": part.name, "about": part.about, "state": "left out", "error": "no time was left"}
        else:
            print(f"{part.name}: {part.about}", file=sys.stderr, flush=True)
            outcome = run(part, options.device, folder, min(part.limit * factor, left))
        print(f"{part.name}: {outcome['state']}, {outcome.get('seconds', 0)} s", file=sys.stderr, flush=True)
        facts["parts"].append(outcome)
        write(folder, facts)  # anew after each: whatever ends this leaves what was measured
    print(folder / "report.md")
    return 0 if all(outcome["state"] == "done" for outcome in facts["parts"]) else 1


if __name__ == "__main__":
    sys.exit(main())
