"""Where a job's residuals acted: in which passes, on which models, and why not in the others."""

from __future__ import annotations

from collections.abc import Mapping

from ...residual_folder import Loaded


class Reasons:
    """The hires pass and the refiner may have another checkpoint, which some of the residuals do not fit."""

    def __init__(self) -> None:
        self._reasons: dict[Loaded, dict[str, str | None]] = {}
        """Residual -> pass -> why it did not act there, None where it did."""

    def note(self, where: str, reasons: Mapping[Loaded, str | None]) -> None:
        for loaded, reason in reasons.items():
            self._reasons.setdefault(loaded, {})[where] = reason

    def fail(self, where: str, loaded: Loaded, reason: str) -> None:
        """It could not go on in the middle of a pass, or not begin."""
        reasons = self._reasons.setdefault(loaded, {})
        acted = where in reasons and reasons[where] is None
        reasons[f"the rest of {where}" if acted else where] = reason

    def told(self) -> list[tuple[Loaded, str, str]]:
        """Of each residual that was left out somewhere: where, "" for everywhere, and why."""
        found = []
        for loaded, reasons in self._reasons.items():
            without = {where: reason for where, reason in reasons.items() if reason is not None}
            if without:
                everywhere = len(without) == len(reasons)
                found.append((loaded, "" if everywhere else " and ".join(without), next(iter(without.values()))))
        return found
