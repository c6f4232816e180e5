"""The axes of the WebUI's X/Y/Z plot: residual, strength, LAG, mask.

The plot asks for its axes in an order that the user chooses, so each only notes its value on the cell's copy of p;
`apply_axes` puts them to work together when the cell begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...errors import PersresError
from ...lag_choice import LAG
from ...masks import MASKS
from ...prompt import NETWORK
from ...residual_folder import ResidualFolder
from ..api.refusal import Refused
from ..host import HOST
from ..settings import Settings
from .tag_edits import has_tag, with_residual, with_strength, without_lag

ATTRIBUTE = "persres_axes"
PREFIX = "[Persres] "
CHOICES = {"on": "on", "true": "on", "off": "off", "false": "off", "auto": "auto"}
NO_TAG = f"The plot's axes have nothing to act on: the prompt has no tag such as <{NETWORK}:name>."


def add_axes(residuals: ResidualFolder) -> None:
    """Give the plot our axes, once, where the WebUI has one."""
    for xyz in HOST.plots():
        known = {option.label for option in xyz.axis_options}
        xyz.axis_options.extend(option for option in _axes(xyz, residuals) if option.label not in known)


def _axes(xyz, residuals: ResidualFolder) -> list:
    def axis(name: str, kind, check: Callable, **more):
        def confirm(p, values):
            if not values:
                raise Refused(f"The axis {PREFIX}{name} has no values.")
            for value in values:
                try:
                    check(value)
                except PersresError as error:
                    raise Refused(f"The axis {PREFIX}{name} cannot be drawn: {error}") from error

        return xyz.AxisOption(PREFIX + name, kind, _note(name), confirm=confirm, **more)

    return [
        axis("Residual", str, lambda name: _check_name(residuals, name), choices=lambda: _names(residuals)),
        axis("Strength", float, lambda value: Settings(strength=value), prepare=lambda text: _numbers(xyz, text)),
        axis("LAG", str, _check_lag, choices=lambda: list(LAG)),
        axis("Mask", str, lambda name: Settings(mask=name), choices=lambda: list(MASKS)),
    ]


def _note(name: str):
    def apply(p, value, values):
        setattr(p, ATTRIBUTE, {**getattr(p, ATTRIBUTE, {}), name: value})

    return apply


def _names(residuals: ResidualFolder) -> list[str]:
    return [entry.name for entry in residuals.refresh() if entry.metadata]


def _check_name(residuals: ResidualFolder, name: str) -> None:
    if set(name) & set("<>:="):
        raise PersresError(f"{name[:60]!r} cannot stand in a tag.")
    if residuals.find(name).metadata is None:
        residuals.load(name)  # says why it cannot be read


def _check_lag(value: str) -> None:
    if value.strip().lower() not in CHOICES:
        raise PersresError(f"{value[:60]!r} is none of {', '.join(LAG)}.")


def _numbers(xyz, text: str) -> list[str]:
    """The values as the plot reads them, which are numbers or ranges; its own refusal names no axis."""
    values = xyz.csv_string_to_list_strip(text)
    for value in filter(None, values):
        if not xyz.re_range_float.fullmatch(value) and not xyz.re_range_count_float.fullmatch(value):
            try:
                float(value)
            except ValueError:
                raise Refused(
                    f"The axis {PREFIX}Strength cannot be drawn: {value[:60]!r} is not a number or a range "
                    "such as 0-1 (+0.25)."
                ) from None
    return values


def apply_axes(p, settings: Settings) -> tuple[Settings, str | None]:
    """Write a cell's values into p's prompts; the settings with the others, and a sentence where nothing was found."""
    axes = getattr(p, ATTRIBUTE, None)
    if not axes:
        return settings, None
    _write_out_styles(p)
    tagged = any(map(has_tag, _listed(p.prompt)))
    p.prompt = _edited(p.prompt, axes, tagged)
    if getattr(p, "hr_prompt", ""):
        p.hr_prompt = _edited(p.hr_prompt, axes, tagged)
    if "LAG" in axes:
        settings = replace(settings, enabled=True, lag=CHOICES[axes["LAG"].strip().lower()])
    if "Mask" in axes:
        settings = replace(settings, enabled=True, mask=axes["Mask"], lag=settings.lag if "LAG" in axes else "on")
    return settings, None if any(map(has_tag, _listed(p.prompt))) else NO_TAG


def _edited(prompt, axes: dict, tagged: bool):
    if isinstance(prompt, list):
        return [_edited(text, axes, tagged) for text in prompt]
    # a hires prompt may leave out on purpose what the prompt has
    if "Residual" in axes and (has_tag(prompt) or not tagged):
        prompt = with_residual(prompt, axes["Residual"])
    if "Strength" in axes:
        prompt = with_strength(prompt, axes["Strength"])
    return without_lag(prompt) if "LAG" in axes else prompt


def _write_out_styles(p) -> None:
    """A style may hold the tag, so write out the styles that do."""
    known = HOST.styles()
    if any(has_tag(text) for style in p.styles for text in known.get_style_prompts([style])):
        apply, apply_negative = known.apply_styles_to_prompt, known.apply_negative_styles_to_prompt
        p.prompt, p.negative_prompt = (
            [do(text, p.styles) for text in value] if isinstance(value, list) else do(value, p.styles)
            for value, do in ((p.prompt, apply), (p.negative_prompt, apply_negative))
        )
        for name, do in (("hr_prompt", apply), ("hr_negative_prompt", apply_negative)):
            if isinstance(getattr(p, name, None), str) and getattr(p, name):
                setattr(p, name, do(getattr(p, name), p.styles))
        p.styles = []


def _listed(prompt) -> list[str]:
    return prompt if isinstance(prompt, list) else [prompt]
