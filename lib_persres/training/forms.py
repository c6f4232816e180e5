"""The forms that a change of the model has; light, so that `--help` need not wait for torch. `changes` makes them."""

from __future__ import annotations

from dataclasses import dataclass

from ..targets import ATTENTIONS, EMBEDDING


@dataclass(frozen=True)
class Form:
    """words: for users, behind what learns. low_rank: it is two factors, which LAG can confine and a file holds as they
    are. inputs: it is of the inputs of attentions alone.
    """

    words: str = ""
    low_rank: bool = False
    inputs: bool = False

    def can_change(self, part: str) -> bool:
        """part: of a rule for targets."""
        return not self.inputs or part in (EMBEDDING, *ATTENTIONS)


FORMS = {
    "low-rank": Form(low_rank=True),
    "full": Form(", as whole matrices"),
    "orthogonal": Form(", as rotations", inputs=True),
}
"""Two factors, a matrix of its own, or a rotation of the target's input (OFT)."""
