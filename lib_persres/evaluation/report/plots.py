"""The plots of a report: alignment by category with LAG and without, the image/text trade-off, the trainings' loss."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from adjustText import adjust_text
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from ...residual import Residual
from ..published import TABLES
from ..statistics import Interval, of_methods
from .columns import STAND_FOR, by_concept
from .results import Results
from .tables import means_of, same

INK, SOFT, LINE = "#1d2024", "#8a9099", "#e3e6ea"
PLAIN, LAG = "#9db4cf", "#1f5f9e"
FAMILIES = (
    ("Table 1", "main methods", "#1f5f9e", "o"),
    ("Table 5", "ranks", "#c2571a", "s"),
    ("Table 3", "targets and settings", "#2d8a57", "^"),
    ("Table 4", "macro class", "#7b4fa3", "D"),
)
OTHER = ("", "others", "#4a4f57", "v")
CURVES = 8
"""Trainings whose loss is drawn."""
OUTLINE = [withStroke(linewidth=2, foreground="white")]


def categories(results: Results, plain: str, lag: str, path: Path) -> str | None:
    """Bars by category, LAG off and on, a panel for each score; the caption, None where there is nothing to draw."""
    columns = results.columns(STAND_FOR["text"]) + results.columns(STAND_FOR["image"])
    names = results.categories
    if not columns or not names:
        return None
    figure, panels = _panels(len(columns), 11, 2.9)
    for axes, c in zip(panels, columns):
        for offset, method, colour in ((-0.2, plain, PLAIN), (0.2, lag, LAG)):
            tables = [by_concept(results.counted, c.name, method=method, category=name) for name in names]
            bars = [(i + offset, of_methods(table)[method]) for i, table in enumerate(tables) if method in table]
            places, means = [place for place, _ in bars], [bar.mean for _, bar in bars]
            axes.bar(places, means, 0.38, color=colour, label=method)
            errors = _errors(bar for _, bar in bars)
            axes.errorbar(places, means, errors, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
        axes.set_xticks(range(len(names)), [textwrap.fill(name, 14) for name in names], fontsize=8)
        _tidy(axes, c.label, grid="y")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    figure.savefig(path)
    return f"{plain} and {lag} by category, means over concepts with their 95% intervals."


def trade_off(results: Results, path: Path) -> str | None:
    """Figure 14: a point for each method with crosses of its intervals. Returns the caption, None without both scores.

    A second panel has the other scores, DINO's or the answers of the Toybox's judge. The papers' points are grey: in
    the first panel where ours are on their scale, else in one of their own.
    """
    text, image = results.columns(STAND_FOR["text"]), results.columns(STAND_FOR["image"])
    if not text or not image:
        return None
    shown = list(dict.fromkeys([(text[0], image[0]), (text[-1], image[-1])]))
    score = image[0].name if image[0].name in ("clip_image", "dino_image") else "clip_image"
    together = text[0].name == "clip_text" and image[0].name == score and results.dataset.get("kind") != "toybox"
    figure, panels = _panels(len(shown) + (not together), 14, 6.5, alone=8.5)
    written, over = [], ""
    for panel, pair in zip(panels, shown):
        rows, over = _comparable(results, [c.name for c in pair])
        x, y = means_of(rows, pair).values()
        points = {name: (x[name], y[name]) for name in results.methods() if name in x and name in y}
        if not points:
            return None
        written.append(_ours(panel, points))
        _tidy(panel, "ours", "both", *(c.label for c in pair))
    panels[0].legend(frameon=False, fontsize=9)
    grey = _theirs(panels[0 if together else len(shown)], score)
    if together:
        written[0] += grey
        panels[0].set_title("ours in colour, theirs in grey", loc="left", fontsize=10, fontweight="bold")
    else:
        written.append(grey)
        _tidy(panels[-1], "theirs", "both", "CLIP text", "DINO image" if score == "dino_image" else "CLIP image")
    figure.draw_without_rendering()
    for panel, labels in zip(panels, written):
        _write(panel, labels)
    figure.savefig(path)
    where = "in grey in the same panel" if together else "in a panel of their own, since they are on another scale"
    axes = ", and ".join(f"{x.label} to the right, {y.label} upwards" for x, y in shown)
    return (
        f"The image/text trade-off (the paper's Figure 14): {axes}; means over {over} with crosses of their 95% "
        f"intervals. The paper's published rows are {where}."
    )


def losses(results: Results, concept: str, path: Path) -> str | None:
    """The loss of a concept's trainings over their steps; the caption, None where no residual tells it."""
    files = {piece.training: piece.residual for piece in results.pieces if piece.subject == concept}
    known = {name: Residual.load(file).metadata for name, file in files.items() if file.is_file()}
    curves = {name: metadata for name, metadata in known.items() if metadata.loss.get("curve")}
    if not curves:
        return None
    figure, (axes,) = _panels(1, 8.5, 3, alone=8.5)
    for name, metadata in list(curves.items())[:CURVES]:
        curve = pd.Series(metadata.loss["curve"]).rolling(11, center=True, min_periods=1).mean()
        axes.plot(np.linspace(0, metadata.steps, len(curve) + 1)[1:], curve, label=name)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
    _tidy(axes, "loss", "y", "steps")
    figure.savefig(path)
    return f"The loss of {concept}'s trainings, smoothed over 11 points of up to 100."


def _ours(panel, points: dict[str, tuple[Interval, Interval]]) -> list[tuple]:
    """Draw them, a colour for each table of the paper; what is to be written beside them."""
    labels = []
    for family in (*FAMILIES, OTHER):
        if mine := [name for name in points if _family(name) == family]:
            _, label, colour, marker = family
            x, y = zip(*(points[name] for name in mine))
            panel.errorbar(
                [f.mean for f in x], [f.mean for f in y], _errors(y), _errors(x), fmt=marker, color=colour,
                ecolor=to_rgba(colour, 0.3), elinewidth=1, markersize=6.5, label=label, zorder=3,
            )  # fmt: skip
            labels += [(name, points[name][0].mean, points[name][1].mean, colour) for name in mine]
    return labels


def _theirs(panel, score: str) -> list[tuple]:
    labels = []
    for table, _, _, marker in FAMILIES:
        for row in TABLES[table]:
            if table == "Table 1" or row.key != "residual":
                x, y = row.clip_text, getattr(row, score)
                panel.plot(x, y, marker, color=SOFT, markersize=5, fillstyle="none", zorder=2)
                labels.append((row.key or row.method, x, y, SOFT))
    return labels


def _write(panel, labels: Sequence[tuple]) -> None:
    """Names beside points, where they hide as little as may be."""
    names, x, y, colours = zip(*labels)
    # a name is no formula, whatever signs it holds
    look = {"fontsize": 8, "parse_math": False, "path_effects": OUTLINE, "zorder": 4}
    texts = [panel.text(*place, name, color=colour, **look) for *place, name, colour in zip(x, y, names, colours)]
    for text in texts:
        text.set_in_layout(False)
    adjust_text(texts, x, y, ax=panel, arrowprops={"arrowstyle": "-", "color": SOFT, "lw": 0.6}, iter_lim=300)


def _family(method: str) -> tuple:
    listed = (f for f in FAMILIES if any(same(row.key, method) for row in TABLES[f[0]]))
    return next(listed, FAMILIES[1] if method.startswith("rank-") else OTHER)


def _comparable(results: Results, names: Sequence[str]) -> tuple[pd.DataFrame, str]:
    """The rows of the concepts that all methods have these scores of, and how to call these; else all rows."""
    rows = results.counted
    shared = set.intersection(*(set(by_concept(rows, name).dropna().index) for name in names))
    if not shared:
        return rows, "each method's own concepts"
    return rows[rows["concept"].isin(shared)], f"the {len(shared)} concepts that all methods have"


def _panels(count: int, width: float, height: float, alone: float | None = None):
    """The figure and its panels, two in a row; height: of a row."""
    rows = math.ceil(count / 2)
    size = (alone if alone and count == 1 else width, height * rows + 0.5 * (alone is None))
    figure = Figure(size, dpi=130, layout="constrained", facecolor="white")
    panels = figure.subplots(rows, min(count, 2), squeeze=False).ravel()
    for panel in panels[count:]:
        panel.set_visible(False)
    return figure, panels[:count]


def _tidy(axes, title: str, grid: str, x: str = "", y: str = "") -> None:
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel(f"{x} →" if x else "")
    axes.set_ylabel(f"{y} →" if y else "")
    if y:
        axes.margins(0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.tick_params(colors=INK, labelsize=8, color=SOFT)
    axes.grid(True, axis=grid, color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)


def _errors(found: Iterable[Interval]) -> list[list[float]]:
    """Distances to the ends of the intervals; 0 where there is none."""
    known = [(f.mean - f.low, f.high - f.mean) if math.isfinite(f.low) else (0.0, 0.0) for f in found]
    return [[max(low, 0.0) for low, _ in known], [max(high, 0.0) for _, high in known]]
