"""The one exception that users see."""


class PersresError(ValueError):
    """Something the user can act on; its text is one sentence: what, where, what to do."""


def first_line(error: Exception) -> str:
    """The first line of an error's text without its full stop, for the inside of a sentence."""
    text = str(error).strip().splitlines()
    return text[0].rstrip(".") if text else type(error).__name__
