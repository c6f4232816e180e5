"""What imports what, as pictures in Mermaid; `benchmarks.pages` puts them into docs/architecture.md."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "lib_persres"
CORE = "core"
"""The modules that lie in the package itself."""

Arrows = set[tuple[str, str]]


def imports(path: Path, root: Path = ROOT) -> Iterator[str]:
    """The dotted name of every import of a file, at any depth; relative ones made absolute."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = path.relative_to(root).parts[: -node.level] if node.level else ()
            module = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def part_of(name: str, root: Path = ROOT) -> str | None:
    """The part of the house that a dotted name lies in; None: not ours."""
    top, *below = name.split(".")
    if top != PACKAGE:
        return top if top in ("scripts", "benchmarks") else None
    if below and below[0] == "__main__":
        return "commands"
    return below[0] if below and (root / PACKAGE / below[0]).is_dir() else CORE


def module_of(name: str, root: Path = ROOT) -> str | None:
    """The core's module that a dotted name lies in; None: elsewhere."""
    top, *below = name.split(".")
    return below[0] if top == PACKAGE and below and (root / PACKAGE / f"{below[0]}.py").is_file() else None


def arrows(room: Callable[[str, Path], str | None], root: Path = ROOT) -> Arrows:
    """(room, room whose code it imports) of every two."""
    found = set()
    for path in sorted([path for top in (PACKAGE, "scripts", "benchmarks") for path in (root / top).rglob("*.py")]):
        own = room(".".join(path.relative_to(root).with_suffix("").parts), root)
        others = {room(name, root) for name in imports(path, root)}
        found |= {(own, other) for other in others if own and other and other != own}
    return found


def circles(found: Arrows) -> set[str]:
    """The rooms from which arrows lead back to them."""
    return {start for start, _ in found if start in _reached(found, start)}


def shortest(found: Arrows) -> Arrows:
    """Without the arrows that a longer way shows, too."""
    return {
        (start, end)
        for start, end in found
        if not any(end in _reached(found, other) for first, other in found if first == start and other != end)
    }


def _reached(found: Arrows, start: str) -> set[str]:
    seen: set[str] = set()
    ahead = [start]
    while ahead:
        here = ahead.pop()
        new = {end for first, end in found if first == here} - seen
        seen |= new
        ahead += new
    return seen


# -- the pictures

LABELS = {
    "scripts": "scripts/<br>registers with the WebUI",
    "webui": "webui/<br>generation, cards, api, training, tab, host",
    "commands": "commands/<br>the command line",
    "evaluation": "evaluation/<br>the papers' protocol",
    "toybox": "toybox/<br>the drawn world and its model",
    "standalone": "standalone/<br>without a WebUI",
    "lora": "lora/<br>LoRA files: names, factors, words",
    "training": "training/<br>recipes, pictures, the trainer",
    CORE: "the core<br>residuals, prompts, uses, plans, masks, branches",
    "benchmarks": "benchmarks/<br>figures, fuzzers, these pages",
}
OF_A_PICTURE = (
    *("prompt", "concept_tokens", "concepts", "plan", "mask", "masks", "fitted"),
    *("lag", "attention", "branch", "overlay"),
    *("residual_folder", "residual", "metadata", "targets", "unet"),
)
"""The core's modules that a picture passes; the others are names, files and sentences."""


def draw(found: Arrows, labels: dict[str, str]) -> str:
    """A picture in Mermaid; an arrow goes from who imports to what is imported."""
    known = {room for arrow in found for room in arrow}
    boxes = [f'    {room}["{labels.get(room, room)}"]' for room in sorted(known)]
    lines = [f"    {start} --> {end}" for start, end in sorted(shortest(found))]
    return "\n".join(["```mermaid", "flowchart TD", *boxes, *lines, "```"])


def house() -> str:
    return draw(arrows(part_of), LABELS)


def core() -> str:
    found = {(start, end) for start, end in arrows(module_of) if {start, end} <= set(OF_A_PICTURE)}
    return draw(found, {name: f"{name}.py" for name in OF_A_PICTURE})
