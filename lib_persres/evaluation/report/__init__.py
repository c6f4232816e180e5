"""The report of a run folder: the papers' tables and figures from its scores and pictures, nothing sampled anew."""

from .make import make

__all__ = ["make"]
