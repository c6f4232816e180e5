"""Damaged files against our readers: each is taken, or refused in one sentence; nothing else may happen."""
