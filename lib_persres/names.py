"""What a concept may be called: the name of its file, its macro class, its identifier. One form for each.

A letter is one of any script, with the marks that belong to it (Hindi's vowels, Thai's tones, Hebrew's points).
"""

from __future__ import annotations

import unicodedata

from .errors import JOINERS, PersresError, readable

SUFFIX = ".safetensors"
LONGEST = 100
"""Characters of a name, a class or an identifier."""
MOST_FORM = 4096
"""Characters of a path, the longest text that is brought to one form."""
MOST_BYTES = 200
"""Of a name in UTF-8. A file's name has at most 255, the suffix and " 2" among them."""
RESERVED = frozenset({"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"}) | {
    f"{port}{digit}" for port in ("COM", "LPT") for digit in "0123456789¹²³"
}
"""What Windows takes for a device, whatever follows a dot."""
# What the WebUI's prompt syntax and our own would read as something else.
FORBIDDEN = frozenset("()[]<>:|,*\\")
FORBIDDEN_WORDS = frozenset({"AND", "BREAK"})


def one_form(text: str) -> str:
    """Unicode's NFC: "é" is one character, as keyboards write it, and not the two of a Mac's file names.

    What is too long for any name stays as it is: sorting marks takes a time that grows with their square.
    """
    return unicodedata.normalize("NFC", text) if len(text) <= MOST_FORM else text


def is_letter(character: str) -> bool:
    """A letter, a digit, "_", or a mark on a letter."""
    return character == "_" or character.isalnum() or is_mark(character)


def is_mark(character: str) -> bool:
    """What belongs to the letter before it, or joins two."""
    return character in JOINERS or unicodedata.category(character)[0] == "M"


def check_name(name: str) -> str:
    """The name in its one form, without a residual's suffix; PersresError where a file, a tag or a page would misread
    it."""
    shown = readable(name, 40)
    end = len(name)
    while name[max(0, end - len(SUFFIX)) : end].lower() == SUFFIX:
        end -= len(SUFFIX)
    name = one_form(name[:end])
    if not _is_words(name, " .-") or not is_letter(name[-1]):
        raise PersresError(
            f"The name {shown!r} cannot be used: take up to {LONGEST} letters and digits, "
            "with spaces, dots, - or _ in between."
        )
    if len(name) > LONGEST or len(name.encode()) > MOST_BYTES:
        raise PersresError(
            f"The name {shown!r} is too long for a file: take up to {LONGEST} letters and digits "
            f"that are at most {MOST_BYTES} bytes in UTF-8 (it has {len(name)} and {len(name.encode())})."
        )
    if name.partition(".")[0].rstrip().upper() in RESERVED:
        raise PersresError(f"The name {shown!r} cannot be used: Windows keeps it for a device; take another.")
    return name


def refuse_controls(text: str, what: str) -> None:
    """PersresError for words of a prompt that hold what steers a terminal, or is no Unicode."""
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n\r":
            raise PersresError(
                f"The {what} {readable(text, 60)!r} has a control character (U+{ord(character):04X}): take it out."
            )


def check_class(macro_class: str) -> str:
    """The class in its one form without white space around it; PersresError for what is no word of a prompt."""
    shown, macro_class = readable(macro_class, 40), one_form(macro_class.strip())
    if not _is_words(macro_class, " '-") or len(macro_class) > LONGEST:
        raise PersresError(f'The class {shown!r} cannot be used: give the plain noun for the concept, as "dog".')
    if FORBIDDEN_WORDS.intersection(macro_class.split()):
        raise PersresError(f'The class {shown!r} has a command of prompts in it: write it in small letters, as "dog".')
    return macro_class


def check_spelling(identifier: str) -> str:
    """The identifier in its one form; PersresError for one that a prompt would misread. A model may still lack it."""
    if not identifier.strip():
        raise PersresError('The identifier is empty; choose a rare short word such as "olis".')
    shown, identifier = readable(" ".join(identifier.split()), 40), one_form(identifier)
    if any(character.isspace() for character in identifier):
        raise PersresError(f'The identifier "{shown}" contains white space; choose one rare short word such as "olis".')
    wrong = sorted(FORBIDDEN.intersection(identifier))
    if wrong:
        raise PersresError(
            f'The identifier "{shown}" contains {" ".join(wrong)}, which has a meaning in prompts; '
            "use letters and digits."
        )
    if not all(character.isprintable() or character in JOINERS for character in identifier):
        raise PersresError(f'The identifier "{shown}" contains what cannot be seen; use letters and digits.')
    if identifier in FORBIDDEN_WORDS:
        raise PersresError(
            f'The identifier "{shown}" is a command in prompts; choose a rare short word such as "olis".'
        )
    if len(identifier) > LONGEST:
        raise PersresError(
            f'The identifier "{shown}" has {len(identifier)} characters; choose one rare short word such as "olis".'
        )
    return identifier


def _is_words(text: str, between: str) -> bool:
    """Whether it is letters, the first of them no mark, and these characters."""
    return (
        text != ""
        and is_letter(text[0])
        and not is_mark(text[0])
        and text[-1] not in JOINERS
        and all(is_letter(character) or character in between for character in text)
    )
