"""The plots of a report: alignment by category with LAG and without, and the image/text trade-off.

matplotlib is an optional extra ("evaluation"); `available` says whether it is here.
"""

from __future__ import annotations

import importlib.util
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from ..published import TABLES
from ..statistics import Interval, bootstrap, by_concept
from .columns import WITHOUT, Column, counted, for_column
from .folder import Run
from .labels import annotate
from .tables import categories_of, image_columns, method_means, same, text_columns

INK, SOFT, LINE = "#1d2024", "#8a9099", "#e3e6ea"
PLAIN, LAG = "#9db4cf", "#1f5f9e"
FAMILIES = (
    ("Table 1", "main methods", "#1f5f9e", "o"),
    ("Table 5", "ranks", "#c2571a", "s"),
    ("Table 3", "targets and settings", "#2d8a57", "^"),
    ("Table 4", "macro class", "#7b4fa3", "D"),
)
OTHER = ("", "others", "#4a4f57", "v")


def available() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def categories(run: Run, plain: str, lag: str, path: Path) -> bool:
    """Bars by category, LAG off and on, a panel for each score; False where there is nothing to draw."""
    columns = text_columns(run) + image_columns(run)
    names = categories_of(run)
    if not columns or not names:
        return False
    figure = _figure(11, 2.9 * math.ceil(len(columns) / 2) + 0.5)
    grid = figure.subplots(math.ceil(len(columns) / 2), min(len(columns), 2), squeeze=False).ravel()
    rows = counted(run.rows)
    for axes, c in zip(grid, columns):
        for offset, method, colour in ((-0.2, plain, PLAIN), (0.2, lag, LAG)):
            bars = []
            for category in names:
                found = by_concept(for_column(rows, c.name), c.name, method=method, category=category)
                bars.append(bootstrap(list(found[method].values())) if found else None)
            places = [i + offset for i, bar in enumerate(bars) if bar]
            bars = [bar for bar in bars if bar]
            axes.bar(places, [bar.mean for bar in bars], 0.38, color=colour, label=method)
            axes.errorbar(
                places, [bar.mean for bar in bars], _errors(bars), fmt="none", ecolor=INK, elinewidth=1, capsize=2
            )
        axes.set_title(c.label, loc="left", fontsize=10, fontweight="bold")
        axes.set_xticks(range(len(names)), [textwrap.fill(name, 14) for name in names], fontsize=8)
        _tidy(axes, grid="y")
    for axes in grid[len(columns) :]:
        axes.set_visible(False)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    figure.savefig(path)
    return True


def trade_off(run: Run, path: Path) -> str | None:
    """Figure 14: a point for each method with crosses of its intervals. Returns the caption, None without both scores.

    A second panel has the other scores, DINO's or the answers of the Toybox's judge. The papers' points are grey: in
    the first panel where ours are on their scale, else in one of their own.
    """
    text, image = text_columns(run), image_columns(run)
    if not text or not image:
        return None
    shown = list(dict.fromkeys([(text[0], image[0]), (text[-1], image[-1])]))
    means, over = {}, ""
    for pair in shown:
        rows, over = comparable(run, [c.name for c in pair])
        means |= method_means(rows, pair)
    points = [_points(run, means, pair) for pair in shown]
    if not points[0]:
        return None
    kind = str((run.settings.get("dataset") or {}).get("kind", "")).lower()
    score = image[0].name if image[0].name in ("clip_image", "dino_image") else "clip_image"
    theirs = [
        (row.key or row.method, row.clip_text, getattr(row, score), family)
        for family in FAMILIES
        for row in TABLES[family[0]]
        if family[0] == "Table 1" or row.key != "residual"
    ]
    together = text[0].name == "clip_text" and image[0].name == score and kind != "toybox"
    count = len(shown) + (not together)
    figure = _figure(8.5 if count == 1 else 14, 6.5 * math.ceil(count / 2))
    panels = figure.subplots(math.ceil(count / 2), min(count, 2), squeeze=False).ravel()
    written = []
    for panel, own, (x, y) in zip(panels, points, shown):
        written.append((panel, _ours(panel, own)))
        _axes(panel, x.label, y.label, "ours")
    panels[0].legend(frameon=False, fontsize=9)
    their_panel = panels[0] if together else panels[len(shown)]
    for _, x, y, family in theirs:
        their_panel.plot(x, y, family[3], color=SOFT, markersize=5, fillstyle="none", zorder=2)
    grey = [(name, x, y, SOFT) for name, x, y, _ in theirs]
    if together:
        written[0][1].extend(grey)
        their_panel.set_title("ours in colour, theirs in grey", loc="left", fontsize=10, fontweight="bold")
    else:
        _axes(their_panel, "CLIP text", "DINO image" if score == "dino_image" else "CLIP image", "theirs")
        written.append((their_panel, grey))
    for panel in panels[count:]:
        panel.set_visible(False)
    for panel, labels in written:
        annotate(figure, panel, labels)
    figure.savefig(path)
    where = "in grey in the same panel" if together else "in a panel of their own, since they are on another scale"
    axes = ", and ".join(f"{x.label} to the right, {y.label} upwards" for x, y in shown)
    return (
        f"The image/text trade-off (the paper's Figure 14): {axes}; means over {over} with crosses of their 95% "
        f"intervals. The paper's published rows are {where}."
    )


Points = dict[str, tuple[Interval, Interval]]


def _points(run: Run, means, pair: Sequence[Column]) -> Points:
    """The methods that have both scores."""
    wanted = {m["name"]: [(m["name"], c.name) for c in pair] for m in run.methods}
    return {name: (means[x], means[y]) for name, (x, y) in wanted.items() if x in means and y in means}


def _ours(panel, points: Points) -> list[tuple]:
    """Draw them, a colour for each table of the paper; what is to be written beside them."""
    from matplotlib.colors import to_rgba

    labels = []
    for family in (*FAMILIES, OTHER):
        mine = [name for name in points if _family(name) == family]
        if not mine:
            continue
        _, label, colour, marker = family
        x, y = zip(*(points[name] for name in mine))
        panel.errorbar(
            [f.mean for f in x], [f.mean for f in y], _errors(y), _errors(x),
            fmt=marker, color=colour, ecolor=to_rgba(colour, 0.3), elinewidth=1, markersize=6.5, label=label, zorder=3,
        )  # fmt: skip
        labels += [(name, points[name][0].mean, points[name][1].mean, colour) for name in mine]
    return labels


def comparable(run: Run, names: Sequence[str]) -> tuple[list, str]:
    """The rows of the concepts that all methods have scores `names` of, and how to call these; else all rows."""
    rows = [row for row in counted(run.rows) if row.get("category") != WITHOUT]
    have: dict[str, set[str]] = {}
    for name in names:
        for method, concepts in by_concept(rows, name).items():
            have.setdefault(method, set(concepts)).intersection_update(concepts)
    shared = set.intersection(*have.values()) if have else set()
    if not shared:
        return rows, "each method's own concepts"
    return [row for row in rows if row["concept"] in shared], f"the {len(shared)} concepts that all methods have"


def _figure(width: float, height: float):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _axes(axes, x: str, y: str, title: str) -> None:
    axes.set_xlabel(f"{x} →")
    axes.set_ylabel(f"{y} →")
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.margins(0.12)
    _tidy(axes, grid="both")


def _tidy(axes, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.tick_params(colors=INK, labelsize=8, color=SOFT)
    axes.grid(True, axis=grid, color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)


def _errors(found: Sequence[Interval]) -> list[list[float]]:
    """Distances to the ends of the intervals; 0 where there is none."""
    known = [(f.mean - f.low, f.high - f.mean) if math.isfinite(f.low) else (0.0, 0.0) for f in found]
    return [[max(low, 0.0) for low, _ in known], [max(high, 0.0) for _, high in known]]


def _family(method: str) -> tuple:
    listed = (f for f in FAMILIES if any(same(row.key, method) for row in TABLES[f[0]]))
    return next(listed, FAMILIES[1] if method.startswith("rank-") else OTHER)
