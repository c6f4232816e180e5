"""The figures of docs/figures.md: what each means, its goal, and the function that measures it.

python dev.py figures                     the list, with the last measured values
python dev.py figures toybox.* cost.lag   measures these again, one JSON object a line
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import importlib
import json
import math
import operator
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TextIO

RECORD = Path(__file__).resolve().parent.parent / "docs" / "figures.json"

OPERATORS = {">=": operator.ge, "<=": operator.le, "==": operator.eq}


@dataclass(frozen=True)
class Goal:
    """A bound on a value: "<=", ">=" or "==", and the number."""

    operator: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Goal:
        sign, number = text.split()
        if sign not in OPERATORS:
            raise ValueError(f"A goal is one of {', '.join(OPERATORS)} and a number, not {text!r}.")
        return cls(sign, float(number))

    def reached(self, value: float) -> bool:
        return OPERATORS[self.operator](value, self.bound)


@dataclass(frozen=True)
class Figure:
    """One stated number.

    measure: "module:function", imported only to measure. The function takes nothing and returns
    {name: value} or {name: (value, note)} for every figure that names it, so that one run serves them all.
    """

    name: str
    goal_text: str
    meaning: str
    measure: str

    @property
    def goal(self) -> Goal:
        return Goal.parse(self.goal_text)


COST = "benchmarks.cost"
TOYBOX = "benchmarks.toybox_figures"
SPEED = "benchmarks.training_speed"
TABLES = "benchmarks.tables"
MASKS = "benchmarks.masks"
LORA = "benchmarks.lora"
HOSTS = "benchmarks.hosts"


FIGURES = (
    Figure(
        "params.sd1",
        "== 1239040",
        "parameters of a residual for the full-size SD1 UNet",
        f"{COST}:params_sd1",
    ),
    Figure(
        "params.sd2",
        "== 1239040",
        "the same for the full-size SD2 UNet",
        "benchmarks.families:params",
    ),
    Figure(
        "params.sdxl",
        "== 1187840",
        "the same for the full-size SDXL UNet",
        "benchmarks.families:params",
    ),
    Figure(
        "cost.lag_sdxl",
        "<= 1.015",
        "SDXL step at 1024x1024 with a residual under LAG over the base step",
        "benchmarks.families:cost_sdxl",
    ),
    Figure(
        "cost.plain",
        "<= 1.005",
        "SD1 step at 512x512 with a residual, plain, over the base step (CUDA: <= 1.02)",
        f"{COST}:cost_sd1",
    ),
    Figure(
        "cost.lag",
        "<= 1.015",
        "SD1 step at 512x512 with a residual under LAG over the base step (CUDA: <= 1.05)",
        f"{COST}:cost_sd1",
    ),
    Figure(
        "cost.lag_768",
        "<= 1.015",
        "the same at 768x768",
        "benchmarks.cost_several:figures",
    ),
    Figure(
        "cost.median",
        "<= 1.03",
        "the same under the paper's mask",
        f"{COST}:cost_sd1",
    ),
    Figure(
        "cost.lag_memory",
        "<= 1.02",
        "peak memory of the LAG step over that of the base step",
        f"{COST}:cost_sd1",
    ),
    Figure(
        "toybox.judge_accuracy",
        ">= 0.99",
        "class, colour and background of one thing right, by the judge on fresh renderings",
        f"{TOYBOX}:base",
    ),
    Figure(
        "toybox.judge_two",
        ">= 0.97",
        "class and colour (or skin) of each of two things right, by the judge on fresh renderings",
        f"{TOYBOX}:base",
    ),
    Figure(
        "toybox.base_all_right",
        ">= 0.97",
        "base model's pictures of one thing with class, colour and background right and nothing else",
        f"{TOYBOX}:base",
    ),
    Figure(
        "toybox.base_pairs",
        ">= 0.80",
        "of two things of different classes: both there in their colours and nothing else",
        f"{TOYBOX}:base",
    ),
    Figure(
        "toybox.base_twins",
        ">= 0.60",
        "of two things of one class in different colours: both there and nothing else",
        f"{TOYBOX}:base",
    ),
    Figure(
        "toybox.base_places",
        ">= 0.80",
        "of pairs whose things are right: lying as a word of place asks",
        f"{TOYBOX}:base",
    ),
    Figure(
        "toybox.map_iou",
        ">= 0.75",
        "mean IoU of the best-threshold concept map with the thing, best attention level",
        f"{TOYBOX}:maps",
    ),
    Figure(
        "toybox.map_iou_pairs",
        ">= 0.65",
        "the same for each of two things, the worse of first and second",
        f"{TOYBOX}:maps",
    ),
    Figure(
        "toybox.psnr",
        ">= 25",
        "autoencoder's PSNR on fresh renderings, dB",
        f"{TOYBOX}:maps",
    ),
    Figure(
        "toybox.colour_error",
        "<= 3",
        "grey levels that the mean of an even area is off by",
        f"{TOYBOX}:maps",
    ),
    Figure(
        "toybox.corner_error",
        "<= 8",
        "grey levels that a pixel of a 16x16 corner is off by, mean over 100 pictures, the worst",
        f"{TOYBOX}:maps",
    ),
    Figure(
        "concept.recognised",
        ">= 0.95",
        "pictures of learned concepts with the class in the nearest of 24 appearances, one thing asked for",
        f"{TOYBOX}:concepts",
    ),
    Figure(
        "concept.recognised_base",
        "<= 0.10",
        "the same share for the base model's pictures, without the residual",
        f"{TOYBOX}:concepts",
    ),
    Figure(
        "concept.added_objects",
        ">= 0.70",
        "the same share where another object is asked for beside it",
        f"{TOYBOX}:concepts",
    ),
    Figure(
        "concept.other_backgrounds",
        ">= 0.95",
        "the asked background is there",
        f"{TOYBOX}:concepts",
    ),
    Figure(
        "concept.seconds",
        "<= 60",
        "seconds that learning a concept takes on two cores",
        f"{TOYBOX}:learning",
    ),
    Figure(
        "lag.background_ratio",
        "<= 0.45",
        "distance to the base image outside the object, LAG over plain sampling",
        f"{TOYBOX}:concepts",
    ),
    Figure(
        "lag.identity_drop",
        "<= 0.02",
        "how much lower the identity is with LAG than with plain sampling",
        f"{TOYBOX}:concepts",
    ),
    Figure(
        "mask.iou",
        ">= 0.75",
        "LAG's mask and the thing that is drawn, over the last two thirds of the steps",
        f"{MASKS}:figures",
    ),
    Figure(
        "mask.iou_two",
        ">= 0.65",
        "the same of each of two concepts",
        f"{MASKS}:figures",
    ),
    Figure(
        "mask.leak",
        "<= 0.05",
        "the part of the other thing that the mask of one takes",
        f"{MASKS}:figures",
    ),
    Figure(
        "multi.recognised",
        ">= 0.7",
        "pictures of two concepts in which each is its own",
        f"{MASKS}:figures",
    ),
    Figure(
        "multi.swapped",
        "<= 0.1",
        "of these, one wears the other's skin",
        f"{MASKS}:figures",
    ),
    Figure(
        "multi.three",
        ">= 0",
        "of three concepts in a picture, the share that is its own (reported)",
        f"{MASKS}:figures",
    ),
    Figure(
        "auto.regret",
        "<= 0",
        "how much LAG auto is surely below LAG on or off in a category of prompts (lower end of the 95% interval)",
        "benchmarks.lag_auto:figures",
    ),
    Figure(
        "lora.background_ratio",
        "<= 0.6",
        "of a LoRA on attentions and feed-forward: distance to the base picture outside of things, LAG over plain",
        f"{LORA}:figures",
    ),
    Figure(
        "lora.identity_drop",
        "<= 0.05",
        "its concept recognised plainly minus under LAG",
        f"{LORA}:figures",
    ),
    Figure(
        "lora.multi",
        ">= 0.6",
        "pictures of two LoRAs under LAG in which each is its own",
        f"{LORA}:figures",
    ),
    Figure(
        "export.max_difference",
        "<= 0.01",
        "WebUI: an exported LoRA's pictures by the built-in Lora, its residual's, and the file's by our tag; 0 to 1",
        f"{LORA}:export",
    ),
    Figure(
        "multi.cost",
        "<= 1.02",
        "SD1 step at 512x512 with two concepts under LAG over one with one",
        "benchmarks.cost_several:figures",
    ),
    Figure(
        "train.vs_peer",
        ">= 1.3",
        "time of 150 steps at SD1's size, set-up included, of diffusers + peft over ours (CUDA: >= 2)",
        f"{SPEED}:figures",
    ),
    Figure(
        "train.memory_vs_peer",
        "<= 0.6",
        "peak memory of that training, ours over diffusers + peft; the goal is for CUDA",
        f"{SPEED}:figures",
    ),
    Figure(
        "train.memory_sd1",
        "<= 6",
        "GB that a training step at SD1's size holds: weights and what autograd keeps, counted by fake tensors",
        "benchmarks.training_memory:figures",
    ),
    Figure(
        "train.memory_sdxl",
        "<= 10",
        "the same at SDXL's size, a row at a time",
        "benchmarks.training_memory:figures",
    ),
    Figure(
        "train.gpu_seconds",
        "<= 15",
        "seconds of the paper's training, 150 steps of 4 at 512x512, encoding included; needs CUDA",
        f"{SPEED}:figures",
    ),
    Figure(
        "yield.seconds",
        "<= 3",
        "seconds that a training at SD1's size loses by giving way to an image once (CUDA: <= 1)",
        "benchmarks.hand_over:figures",
    ),
    Figure(
        "tables.reproduced",
        ">= 8",
        "orderings of the papers' tables that the Toybox shows, too, clear of their intervals",
        f"{TABLES}:figures",
    ),
    Figure(
        "hosts.passed",
        "== 1",
        "share of tests/webui that passes, of those that a WebUI can run: the least of A1111, reForge and Forge",
        f"{HOSTS}:passed",
    ),
    Figure(
        "hosts.picture",
        "<= 0.2",
        "grey levels on average between two WebUIs' pictures of the Toybox, with and without a residual",
        f"{HOSTS}:same",
    ),
    Figure(
        "hosts.lines",
        "<= 150",
        "lines of the longest class of a WebUI",
        f"{HOSTS}:lines",
    ),
    Figure(
        "folder.refresh_10000",
        "<= 1",
        "seconds in which a folder of 10,000 residuals is read for the first time",
        "benchmarks.folder:figures",
    ),
    Figure(
        "fuzz.files",
        "== 0",
        "faults among 127,000 damaged residuals, checkpoints, images and queues; else read, or refused in a sentence",
        "benchmarks.fuzz.figures:figures",
    ),
)


def select(patterns: Sequence[str], registry: Sequence[Figure]) -> tuple[list[Figure], list[str]]:
    """The figures that names or patterns (`toybox.*`) mean, in the registry's order; the names of none."""
    unknown = [p for p in patterns if not any(fnmatch.fnmatchcase(figure.name, p) for figure in registry)]
    chosen = [figure for figure in registry if any(fnmatch.fnmatchcase(figure.name, p) for p in patterns)]
    return chosen, unknown


# -- measuring -----------------------------------------------------------------------------------------------


def load_function(target: str) -> Callable[[], dict]:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def measure(figures: Sequence[Figure], load: Callable[[str], Callable[[], dict]]) -> list[dict]:
    """One object for each of `figures`, which share a measuring function: what is printed for them.

    {"name", "value", "seconds"} and perhaps "note", or {"name", "error", "seconds"}. The seconds are those of
    the whole measurement.
    """
    start = time.perf_counter()
    values: dict = {}
    failure = None
    try:
        # whatever a measurement prints must not mix with the JSON lines
        with contextlib.redirect_stdout(sys.stderr):
            values = load(figures[0].measure)()
        if not isinstance(values, dict):
            raise TypeError(f"{figures[0].measure} returned {type(values).__name__}, not {{name: value}}")
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        failure = f"{type(error).__name__}: {error}"
    seconds = round(time.perf_counter() - start, 2)

    lines = []
    for figure in figures:
        line = {"name": figure.name}
        if failure is not None:
            line["error"] = failure
        elif figure.name not in values:
            line["error"] = f"{figure.measure} did not measure it"
        else:
            line.update(_value(values[figure.name]))
        lines.append({**line, "seconds": seconds})
    return lines


def _value(measured) -> dict:
    """{"value", perhaps "note"} of a number or (number, note); {"error"} if JSON has no such number."""
    value, note = measured if isinstance(measured, tuple) else (measured, None)
    value = value.item() if hasattr(value, "item") else value  # numpy's and torch's scalars
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return {"error": f"the measured value is {value!r}, not a finite number"}
    return {"value": value} if note is None else {"value": value, "note": note}


# -- the record ----------------------------------------------------------------------------------------------


def read_record(path: Path) -> dict[str, dict]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def write_record(path: Path, record: dict[str, dict], registry: Sequence[Figure]) -> None:
    """Every figure of the registry, in its order, measured or not; written whole or not at all."""
    empty = {"value": None, "date": None, "seconds": None}
    record = {
        figure.name: {
            "goal": figure.goal_text,
            **{k: v for k, v in record.get(figure.name, empty).items() if k not in ("goal", "command")},
            "command": f"python dev.py figures {figure.name} --record",
        }
        for figure in registry
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    os.replace(new, path)


def table(registry: Sequence[Figure], record: dict[str, dict]) -> str:
    """Every figure with its goal and what was last measured, in aligned columns."""
    rows = [("name", "goal", "value", "reached", "date", "meaning")]
    for figure in registry:
        last = record.get(figure.name, {})
        value = last.get("value")
        shown, reached = ("-", "-") if value is None else (_number(value), _yes(figure.goal.reached(value)))
        rows.append((figure.name, figure.goal_text, shown, reached, last.get("date") or "never", figure.meaning))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.5g}"


def _yes(condition: bool) -> str:
    return "yes" if condition else "no"


# -- the command ---------------------------------------------------------------------------------------------


def main(
    arguments: Sequence[str] | None = None,
    registry: Sequence[Figure] = FIGURES,
    path: Path = RECORD,
    load: Callable[[str], Callable[[], dict]] = load_function,
    out: TextIO | None = None,
) -> int:
    out = out or sys.stdout
    parser = argparse.ArgumentParser(
        prog="dev.py figures",
        description="List the figures of docs/figures.md, or measure some of them again.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a figure to measure, or a pattern such as 'toybox.*'")
    parser.add_argument("--record", action="store_true", help="keep the measured values in docs/figures.json")
    options = parser.parse_args(arguments)

    if not options.names:
        if options.record:
            print("--record needs the names of the figures to measure; '*' is all of them.", file=sys.stderr)
            return 2
        print(table(registry, read_record(path)), file=out)
        return 0

    chosen, unknown = select(options.names, registry)
    if unknown:
        print(f"There is no figure {', '.join(map(repr, unknown))}; the figures are:", file=sys.stderr)
        print("\n".join(f"  {figure.name}" for figure in registry), file=sys.stderr)
        return 2

    failed = False
    for target in dict.fromkeys(figure.measure for figure in chosen):
        lines = measure([figure for figure in chosen if figure.measure == target], load)
        for line in lines:
            print(json.dumps(line, ensure_ascii=False), file=out, flush=True)
        failed = failed or any("error" in line for line in lines)
        if options.record:
            # after each measurement: what took an hour is kept if the next one is interrupted
            record = read_record(path)
            today = datetime.now(timezone.utc).strftime("%Y-%m-%d")
            for line in lines:
                if "error" not in line:
                    record[line["name"]] = {"value": line["value"], "date": today, "seconds": line["seconds"]}
                    record[line["name"]].update({"note": line["note"]} if "note" in line else {})
            write_record(path, record, registry)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
