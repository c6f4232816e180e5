"""Personalized residuals: learn a concept as a small low-rank residual, draw it, confine it with LAG."""

__version__ = "0.1.0"
