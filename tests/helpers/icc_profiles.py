"""Colour profiles made by hand, and the sRGB values that colours of them have by their closed forms."""

import struct

import numpy as np

SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
"""XYZ of red, green and blue, adapted to D50."""
D50 = (0.96420, 1.0, 0.82491)
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def _fixed(*numbers) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def _xyz(values) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*values)


def _curve(gamma) -> bytes:
    """gamma: a number, or the five of sRGB's curve."""
    if isinstance(gamma, tuple):
        return b"para\0\0\0\0\0\3\0\0" + _fixed(*gamma)
    return b"para\0\0\0\0\0\0\0\0" + _fixed(gamma)


def _text(text: str) -> bytes:
    words = text.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(words), 28) + words


def _profile(kind: bytes, space: bytes, pcs: bytes, tags: dict) -> bytes:
    tags = {b"desc": _text("made by hand"), b"cprt": _text("none"), b"wtpt": _xyz(D50), **tags}
    at, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        content += b"\0" * (-len(content) % 4)
        table += struct.pack(">4sII", name, at + len(body), len(content))
        body += content
    header = struct.pack(">I4sI4s4s4s", at + len(body), b"\0\0\0\0", 0x04300000, kind, space, pcs)
    header += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 24 + b"\0" * 4 + _fixed(*D50)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def rgb_profile(primaries, gamma) -> bytes:
    colours = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(_xyz, primaries)))
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(gamma))
    return _profile(b"mntr", b"RGB ", b"XYZ ", {**colours, **curves})


def grey_profile(gamma) -> bytes:
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _curve(gamma)})


def cmyk_profile() -> bytes:
    """Of an odd press: only its black ink is seen, and lightness falls evenly with it."""
    nodes = b"".join(struct.pack(">3H", 0xFF00 * (1 - node % 2), 0x8000, 0x8000) for node in range(16))
    lut = b"mft2\0\0\0\0" + bytes([4, 3, 2, 0]) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + struct.pack(">HH", 2, 2)
    lut += struct.pack(">2H", 0, 0xFFFF) * 4 + nodes + struct.pack(">2H", 0, 0xFFFF) * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": lut, b"A2B1": lut})


def linear(values, gamma):
    values = np.asarray(values, float) / 255
    if not isinstance(gamma, tuple):
        return values**gamma
    power, a, b, c, start = gamma
    return np.where(values >= start, (a * values + b) ** power, c * values)


def encoded(light):
    """Linear sRGB -> 0 to 255."""
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def in_srgb(colours, primaries, gamma):
    """(…,3) of 0 to 255 by a profile -> the same colours in sRGB."""
    return encoded(linear(colours, gamma) @ np.array(primaries) @ np.linalg.inv(np.array(SRGB)))


def grey_of_lightness(lightness):
    """CIE L* 0 to 100 -> sRGB's grey."""
    f = (np.asarray(lightness, float) + 16) / 116
    return encoded(np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)))
