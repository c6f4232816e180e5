"""Personalized residuals: learn a concept as a small low-rank residual, draw it, confine it with LAG."""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`on`, see `standalone.pipeline`; it comes late, since a file's facts can be read without torch's models."""
    if name == "on":
        from .standalone.pipeline import on

        return on
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
