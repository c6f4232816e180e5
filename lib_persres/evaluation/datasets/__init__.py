"""The datasets of an evaluation: each reader gives a `Dataset` of concepts, photos and prompts."""

from .dataset import CATEGORIES, Concept, Dataset, Pair, Prompt

__all__ = ["CATEGORIES", "Concept", "Dataset", "Pair", "Prompt"]
