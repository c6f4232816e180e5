"""What the parts found, as report.json for programs and report.md for people."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..figures import FIGURES

GOALS = {figure.name: figure.goal_text for figure in FIGURES}


def write(folder: Path, facts: dict) -> None:
    """Each file is whole or not there."""
    for name, text in (("report.json", json.dumps(facts, indent=1) + "\n"), ("report.md", markdown(facts))):
        new = folder / f"{name}.new"
        new.write_text(text, encoding="utf-8")
        os.replace(new, folder / name)


def markdown(facts: dict) -> str:
    parts = facts["parts"]
    card = next((part["card"] for part in parts if "card" in part), {})
    title = card.get("name") or facts["device"]
    rehearsal = " This is a rehearsal on small sizes: its numbers mean nothing." if facts["device"] == "cpu" else ""
    text = [f"# Measured on {title}", f"Begun {facts['began']}, Python {facts['python']}.{rehearsal}"]
    text += _table(("", ""), [(name, value) for name, value in card.items()])
    text += ["## Parts"]
    text += _table(
        ("part", "state", "seconds", "of at most", "what"),
        [
            (part["part"], part["state"], part.get("seconds"), part.get("limit"), part.get("error") or part["about"])
            for part in parts
        ],
    )
    figures = [
        (f"`{name}`", GOALS.get(name), found["value"], found["note"])
        for part in parts
        for name, found in part.get("figures", {}).items()
    ]
    if figures:
        text += ["## Figures", *_table(("figure", "goal", "measured", "note"), figures)]
    for part in parts:
        checks, rows, notes = part.get("checks"), part.get("rows"), part.get("notes")
        if not (checks or rows or notes):
            continue
        text += [f"## {part['part']}: {part['about']}"]
        text += [f"- {note}" for note in notes or ()] + [""]
        if checks:
            text += _table(
                ("", "apart", "at most", "so it is"),
                [(c["what"], c["value"], c["bound"], "yes" if c["ok"] else "**no**") for c in checks],
            )
        if rows:
            names = list(dict.fromkeys(name for row in rows for name in row))
            text += _table(names, [[row.get(name) for name in names] for row in rows])
    return "\n".join(text) + "\n"


def _table(names, rows) -> list[str]:
    if not rows:
        return []
    lines = [names, ["---"] * len(names), *rows]
    return ["", *("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines), ""]


def _cell(value) -> str:
    if value is None:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
