"""The WebUIs of docs/hosts.md: the tests that each passes, whether their pictures are the same, their classes' length.

PERSRES_HOSTS names the checkouts, separated like the folders of PATH; their Pythons are in their folders venv.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("a1111", "ldm_patched", "backend")
"""The files of lib_persres/webui/hosts that are a WebUI each; the others there are what they share."""


def lines() -> dict[str, tuple[int, str]]:
    """`hosts.lines`: of the longest file of lib_persres/webui/hosts."""
    folder = ROOT / "lib_persres" / "webui" / "hosts"
    length = {path.stem: len(path.read_text(encoding="utf-8").splitlines()) for path in folder.glob("*.py")}
    told = ", ".join(f"{name} {length[name]}" for name in CLASSES)
    shared = [number for name, number in length.items() if name not in CLASSES]
    return {"hosts.lines": (max(length.values()), f"{told}; {len(shared)} files that they share, up to {max(shared)}")}


def checkouts() -> list[Path]:
    named = [Path(folder).resolve() for folder in os.environ.get("PERSRES_HOSTS", "").split(os.pathsep) if folder]
    if not named:
        raise RuntimeError("PERSRES_HOSTS names no checkout of a WebUI.")
    return named


def run(checkout: Path, folder: Path, *tests: str) -> tuple[dict[str, int], str]:
    """How many passed, failed and were skipped; and what pytest said. folder: for the pictures and the report."""
    report = folder / f"{checkout.name}.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
    environment = {**os.environ, "PERSRES_WEBUI": str(checkout), "PERSRES_PICTURES": str(folder)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    print(f"{checkout.name}: {done.stdout[-3000:]}", file=sys.stderr, flush=True)
    suite = ElementTree.parse(report).getroot().find("testsuite")
    if suite is None:
        raise RuntimeError(f"{checkout.name}: pytest wrote no report: {done.stdout[-400:]}")
    count = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    failed = count["failures"] + count["errors"]
    return {
        "passed": count["tests"] - failed - count["skipped"],
        "failed": failed,
        "skipped": count["skipped"],
    }, done.stdout


def passed() -> dict[str, tuple[float, str]]:
    """`hosts.passed`: the whole of tests/webui on each; the least share of those that ran and passed."""
    shares, told = [], []
    with tempfile.TemporaryDirectory() as folder:
        for checkout in checkouts():
            count, _ = run(checkout, Path(folder), "tests/webui")
            ran = count["passed"] + count["failed"]
            shares.append(count["passed"] / ran)
            told.append(f"{checkout.name}: {count['passed']} of {ran}, {count['skipped']} skipped")
    return {"hosts.passed": (min(shares), "; ".join(told))}


def same() -> dict[str, tuple[float, str]]:
    """`hosts.picture`: six seeds of the Toybox in each; the greatest mean difference of a way between two of them."""
    with tempfile.TemporaryDirectory() as folder:
        said = [run(checkout, Path(folder), "tests/webui/test_same_picture.py")[1] for checkout in checkouts()]
    found = re.findall(r"hosts\.picture, (.+?): (.+)", "\n".join(said))
    if not found:
        raise RuntimeError("No two WebUIs drew pictures to compare.")
    values = [float(value) for _, told in found for value in re.findall(r"(?<= )\d+\.\d+", told)]
    return {"hosts.picture": (max(values), "; ".join(f"{pair}: {told}" for pair, told in found))}
