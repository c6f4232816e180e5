"""The one exception that users see."""

LONGEST = 300
"""Characters of a sentence; a longer one is cut in its middle, so that its advice, the end, stays."""


JOINERS = "\u200c\u200d"
"""Of Indic scripts and of emoji: without them words are spelt wrong."""


class PersresError(ValueError):
    """Something the user can act on; its text is one sentence: what, where, what to do.

    Whatever was written into it (a name, a path, another library's words), the text has no control characters, no
    lone surrogates, and at most `LONGEST` characters.
    """

    def __init__(self, sentence: object = ""):
        super().__init__(readable(str(sentence)))


def readable(text: str, longest: int = LONGEST) -> str:
    """`text` on one line, fit for UTF-8, a terminal and a page."""
    text = "".join(c if c.isprintable() or c in JOINERS else _shown(c) for c in text)
    if len(text) <= longest:
        return text
    end = longest // 3
    return f"{text[: longest - end - 1]}…{text[-end:]}"


def _shown(character: str) -> str:
    return " " if character.isspace() else "�"


def first_line(error: Exception) -> str:
    """The first line of an error's text without its full stop, for the inside of a sentence."""
    text = str(error).strip().splitlines()
    return text[0].rstrip(".") if text else type(error).__name__
