"""The numbers that a training may compute in; light, so that `--help` need not wait for torch."""

from ..errors import PersresError

PRECISIONS = ("float32", "bfloat16", "float16")
"""Names of torch's types."""


def check_precision(name: str | None) -> None:
    if name and name not in PRECISIONS:
        raise PersresError(f"The precision can be {', '.join(PRECISIONS)}, not {name!r}.")
