"""The script's arguments: one model of them for the UI, the API and the infotext."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from ..concepts import UNCONDITIONAL
from ..errors import PersresError
from ..lag_choice import LAG as LAG_CHOICE
from ..lag_choice import lag_choice
from ..masks import DEFAULT, MASKS
from .options import DEFAULTS, LAG
from .values import is_number, name_of, shown

TITLE = "Personalized Residuals"
MAX_STRENGTH = 100.0


@dataclass(frozen=True)
class Settings:
    """What the accordion says, in the order of its inputs.

    enabled: False leaves the tags to themselves: plain sampling, unless a tag says lag=on. lag: LAG for tags that do
    not say `lag=`, one of `lag_choice.LAG`; true and false are taken for on and off. mask: a name of `masks.MASKS`.
    unconditional: what the unconditional rows take, their image's masks ("mirror") or the base model ("base").
    strength: multiplies every tag's. show_masks: add overlays of the masks to the results.
    """

    enabled: bool = False
    lag: str = "auto"
    mask: str = DEFAULT
    unconditional: str = "mirror"
    strength: float = 1.0
    show_masks: bool = False

    def __post_init__(self):
        if isinstance(self.lag, bool):
            object.__setattr__(self, "lag", lag_choice(self.lag))
        for name in ("enabled", "show_masks"):
            if not isinstance(getattr(self, name), bool):
                _refuse(name, getattr(self, name), "true or false")
        if not isinstance(self.lag, str) or self.lag not in LAG_CHOICE:
            _refuse("lag", self.lag, "true, false, 'on', 'off' or 'auto'")
        for name, choices in (("mask", tuple(MASKS)), ("unconditional", UNCONDITIONAL)):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in choices:
                _refuse(name, value, " or ".join(map(repr, choices)))
        if not is_number(self.strength, -MAX_STRENGTH, MAX_STRENGTH):
            _refuse("strength", self.strength, f"a number from -{MAX_STRENGTH:g} to {MAX_STRENGTH:g}")

    @classmethod
    def from_args(cls, args: Sequence, lag: str = DEFAULTS[LAG]) -> Settings:
        """From the values of the inputs in their order, or from a dict alone, as the API may give it.

        None stands for the default. A dict switches the script on, unless it says otherwise. PersresError for what is
        not understood. lag: the option, one of `options.LAG_CHOICES`.
        """
        args = list(args)
        names = [field.name for field in fields(cls)]
        if args and isinstance(args[0], dict):
            given = _told(args[0])
            unknown = sorted(name_of(key) for key in args[0] if key not in names)
            if unknown:
                raise PersresError(f"{TITLE} does not know {', '.join(unknown)[:100]}; it knows {', '.join(names)}.")
            if any(value is not None for value in args[1:]):
                raise PersresError(f"{TITLE} takes either one dict or its values in a row, not both.")
            given.setdefault("enabled", True)
        else:
            if len(args) > len(names):
                raise PersresError(f"{TITLE} takes {len(names)} values ({', '.join(names)}), not {len(args)}.")
            given = _told(dict(zip(names, args)))
        given.setdefault("lag", "off" if lag == "never" else cls.lag)
        settings = cls(**given)
        # where the script is off, the tags are on their own
        return settings if settings.enabled else cls(lag=cls.lag if lag == "always" else "off")

    @classmethod
    def from_inputs(cls, args: Sequence, lag: str = DEFAULTS[LAG]) -> Settings:
        """From what the WebUI hands the script: behind a dict stand its own values, an infotext's among them.

        The dict wins over those, but for what is null in it.
        """
        if args and isinstance(args[0], dict):
            names = [field.name for field in fields(cls)]
            unknown = {key: None for key in args[0] if key not in names}
            args = [{**dict(zip(names[1:], args[1:])), **unknown, **_told(args[0])}]
        return cls.from_args(args, lag)


def _told(given: Mapping) -> dict:
    """Without what is null, which is the same as left out."""
    return {name: value for name, value in given.items() if value is not None}


def _refuse(name: str, value, allowed: str):
    raise PersresError(f"{TITLE}: {name} is {shown(value)}; allowed is {allowed}.")
