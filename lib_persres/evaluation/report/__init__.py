"""The report of a run folder: the papers' tables and figures from its scores and pictures, nothing sampled anew."""

from .make import make
from .orderings import Tested, orderings, reproduced

__all__ = ["Tested", "make", "orderings", "reproduced"]
