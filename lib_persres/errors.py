"""The one exception that users see."""


class PersresError(ValueError):
    """Something the user can act on; its text is one sentence: what, where, what to do."""
