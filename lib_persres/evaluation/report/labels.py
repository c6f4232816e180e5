"""Labels beside the points of a plot, placed so that they hide as little as may be."""

from __future__ import annotations

import math
from collections.abc import Sequence

RADII = (9, 20, 34, 50, 70)
ANGLES = (30, -30, 150, -150, 90, -90, 0, 180, 60, -60, 120, -120)
CANDIDATES = tuple((radius, angle) for radius in RADII for angle in ANGLES)
"""Where a label may go: points from its own point, and degrees; the first free place is taken."""
NEAR = 9
"""A label farther away than this has a thin line to its point."""

Box = tuple[float, float, float, float]


def annotate(figure, axes, labels: Sequence[tuple[str, float, float, str]]) -> None:
    """labels: (text, x, y, colour), the most important first. The axes' limits must be final."""
    from matplotlib.patheffects import withStroke

    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    pixels = figure.dpi / 72
    points = [tuple(axes.transData.transform((x, y))) for _, x, y, _ in labels]
    frame = axes.get_window_extent(renderer).extents
    taken: list[Box] = []
    for (text, x, y, colour), (px, py) in zip(labels, points):
        # the text is no formula, whatever signs it holds
        note = axes.annotate(
            text, (x, y), (0, 0), textcoords="offset points", ha="center", va="center", fontsize=8, color=colour,
            parse_math=False, zorder=4,
        )  # fmt: skip
        note.set_in_layout(False)
        note.set_path_effects([withStroke(linewidth=2, foreground="white")])
        extent = note.get_window_extent(renderer)
        width, height = extent.width + 4, extent.height + 2
        best = None
        for radius, angle in CANDIDATES:
            cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            # the label's nearest side, not its middle, is `radius` away
            cx = px + radius * pixels * cos + (width / 2 * math.copysign(min(1, abs(cos) * 2), cos))
            cy = py + radius * pixels * sin + height / 2 * sin
            box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
            cost = _cost(box, taken, points, frame) + radius / 200
            if best is None or cost < best[0]:
                best = (cost, radius, cx, cy, box)
            if cost < 0.5:
                break
        _, radius, cx, cy, box = best
        note.set_position(((cx - px) / pixels, (cy - py) / pixels))
        if radius > NEAR:
            nearest = (min(max(px, box[0]), box[2]), min(max(py, box[1]), box[3]))
            ends = axes.transData.inverted().transform([(px, py), nearest])
            axes.plot(*ends.T, color=colour, linewidth=0.6, alpha=0.6, zorder=1, scalex=False, scaley=False)
        taken.append(box)


def _cost(box: Box, taken: Sequence[Box], points: Sequence[tuple[float, float]], frame: Sequence[float]) -> float:
    """1 and more for each thing hidden; labels count the most, by how much they overlap."""
    cost = 0.0
    for other in taken:
        across = min(box[2], other[2]) - max(box[0], other[0])
        up = min(box[3], other[3]) - max(box[1], other[1])
        if across > 0 and up > 0:
            cost += 2 + 4 * across * up / ((box[2] - box[0]) * (box[3] - box[1]))
    cost += sum(box[0] - 4 < x < box[2] + 4 and box[1] - 4 < y < box[3] + 4 for x, y in points)
    outside = box[0] < frame[0] or box[1] < frame[1] or box[2] > frame[2] or box[3] > frame[3]
    return cost + 6 * outside
