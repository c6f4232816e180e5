"""Draws scenes of the Toybox with exact masks: signed distances, antialiased by the distance in pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .world import COLOURS, SIZE, Scene, Skin, Thing

#: Area of each class's shape at unit scale, in units² (a test measures them again).
UNIT_AREA = {
    "ball": 3.1416,
    "box": 3.24,
    "star": 1.470,
    "heart": 1.923,
    "ring": 2.533,
    "cross": 2.258,
    "moon": 1.615,
    "cone": 1.80,
}

_OUTLINE = 1.7  # pixels

#: Patterns are the colour with white; these colours take another second colour, to stay told apart.
_SECOND = {"yellow": (40, 40, 40), "white": (140, 140, 150)}


def render(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene.

    Returns the picture, uint8 (SIZE, SIZE, 3), and the visible part of each thing, bool (things, SIZE, SIZE).
    """
    rng = np.random.default_rng(scene.seed)
    picture = _background(scene.background, rng)
    masks: np.ndarray = np.zeros((len(scene.things), SIZE, SIZE), bool)
    for index, thing in enumerate(scene.things):
        colour, cover = _draw(thing)
        picture = picture * (1 - cover[..., None]) + colour * cover[..., None]
        visible = cover > 0.5
        masks[:index] &= ~visible
        masks[index] = visible
    if scene.style == "sketch":
        grey = picture @ np.array([0.3, 0.59, 0.11])
        picture = np.repeat((90 + 0.62 * grey)[..., None], 3, axis=2)
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8), masks


def signed_distance(cls: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signed distance (negative inside) to a class's outline at unit scale; u to the right, v down."""
    if cls == "ball":
        return np.hypot(u, v) - 1
    if cls == "box":
        return _box(u, v, 0.9, 0.9)
    if cls == "ring":
        return np.abs(np.hypot(u, v) - 0.72) - 0.28
    if cls == "cross":
        return np.minimum(_box(u, v, 1.0, 0.34), _box(u, v, 0.34, 1.0))
    if cls == "moon":
        return np.maximum(np.hypot(u, v) - 1, 0.78 - np.hypot(u - 0.52, v))
    return _polygon(u, v, _POLYGONS[cls])


def _star() -> np.ndarray:
    turn = -np.pi / 2 + np.arange(10) * np.pi / 5
    radius = np.where(np.arange(10) % 2 == 0, 1.08, 0.463)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn) + 0.04], 1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y - 2.5], 1) / 17.0


_POLYGONS = {
    "star": _star(),
    "heart": _heart(),
    "cone": np.array([[0.0, -1.0], [1.0, 0.8], [-1.0, 0.8]]),
}


def _box(u, v, half_u, half_v):
    du, dv = np.abs(u) - half_u, np.abs(v) - half_v
    return np.hypot(np.maximum(du, 0), np.maximum(dv, 0)) + np.minimum(np.maximum(du, dv), 0)


def _polygon(u, v, points):
    """Distance to the nearest edge, signed by the even-odd rule."""
    nearest = np.full(u.shape, np.inf)
    inside = np.zeros(u.shape, bool)
    for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, axis=0)):
        ex, ey = bx - ax, by - ay
        px, py = u - ax, v - ay
        along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, (px - ex * along) ** 2 + (py - ey * along) ** 2)
        if ay != by:
            inside ^= ((ay > v) != (by > v)) & (u < ex * (v - ay) / (by - ay) + ax)
    return np.where(inside, -1, 1) * np.sqrt(nearest)


def scale_of(thing: Thing) -> float:
    """Pixels per unit of the thing's shape, so that it covers its share of the picture (or as much as fits)."""
    wanted = np.sqrt(thing.area * SIZE * SIZE / UNIT_AREA[thing.cls])
    return float(min(wanted, 0.49 * SIZE))


def _draw(thing: Thing):
    scale = scale_of(thing)
    # a share is a disc's when things are placed: other shapes reach further, so they are kept inside here
    reach = min(scale * 1.05, SIZE / 2)
    cx, cy = np.clip(thing.centre, reach, SIZE - reach)
    y, x = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    cos, sin = np.cos(thing.angle), np.sin(thing.angle)
    u = ((x - cx) * cos + (y - cy) * sin) / scale
    v = (-(x - cx) * sin + (y - cy) * cos) / scale
    distance = signed_distance(thing.cls, u, v) * scale
    cover = np.clip(0.5 - distance, 0, 1)
    colour = _skin(thing.skin, u, v) if thing.skin else _paint(thing, u, v, scale)
    dark = np.mean(colour[cover > 0.5]) < 60 if (cover > 0.5).any() else False
    line = np.array([205.0] * 3 if dark else [28.0] * 3)
    edge = np.clip(distance + _OUTLINE + 0.5, 0, 1)[..., None]
    return colour * (1 - edge) + line * edge, cover


def _paint(thing: Thing, u: np.ndarray, v: np.ndarray, scale: float) -> np.ndarray:
    assert thing.colour is not None  # or it has a skin
    first = np.array(COLOURS[thing.colour], float)
    second = np.array(_SECOND.get(thing.colour, (245, 245, 245)), float)
    period = max(0.55, 11.0 / scale)
    if thing.pattern == "striped":
        on = np.mod(u + v, period * 1.2) > period * 0.6
    elif thing.pattern == "dotted":
        on = np.hypot(np.mod(u, period) - period / 2, np.mod(v, period) - period / 2) < period * 0.3
    elif thing.pattern == "checked":
        on = (np.floor(u / period * 1.6) + np.floor(v / period * 1.6)) % 2 == 0
    else:
        on = np.zeros(u.shape, bool)
    return np.where(on[..., None], second, first)


def _skin(skin: Skin, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    first, second = (np.array(c, float) for c in skin.colours)
    on = {
        "halves": u > 0,
        "stacked": v > 0,
        "target": np.hypot(u, v) < 0.62,
        "diagonal": u + v > 0,
        "quarters": (u > 0) ^ (v > 0),
        "emblem": np.minimum(np.abs(u), np.abs(v)) < 0.22,
    }[skin.layout]
    return np.where(on[..., None], second, first)


def _noise(rng, across: int, down: int) -> np.ndarray:
    """Smooth noise in about [-1, 1] of the given numbers of cells."""
    grid = rng.uniform(-1, 1, (down, across)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((SIZE, SIZE), Image.BICUBIC), dtype=float)


def _background(name: str, rng) -> np.ndarray:
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    detail: np.ndarray
    if name == "grass":
        base, detail = (150, 190, 104), 24 * _noise(rng, 32, 6)
    elif name == "sand":
        base, detail = (228, 204, 156), 12 * _noise(rng, 6, 16)
    elif name == "night":
        base, detail = (30, 30, 66), 8 * _noise(rng, 4, 4)
    elif name == "bricks":
        row = (y + int(rng.integers(16))) // 16
        seam = (np.mod(y + int(rng.integers(16)), 16) < 2) | (np.mod(x + 16 * (row % 2), 32) < 2)
        base, detail = (172, 112, 96), np.where(seam, 52, 8 * _noise(rng, 8, 8))
    elif name == "water":
        wave = np.sin((y + 3 * np.sin(x / 9.0 + rng.uniform(0, 6))) / 3.2 + rng.uniform(0, 6))
        base, detail = (112, 180, 206), 20 * wave
    else:
        base, detail = (226, 232, 240), 9 * _noise(rng, 5, 5)
    picture = np.array(base, float) * rng.uniform(0.94, 1.06) + detail[..., None]
    if name == "night":
        for _ in range(14):
            cx, cy = rng.uniform(4, SIZE - 4, 2)
            picture += (190 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 3.5))[..., None]
    return picture
