"""Regular expressions by counting: a plain backtracking matcher that does what Python's does, and counts its looks at
characters."""

from __future__ import annotations

from collections.abc import Iterator

try:
    from re import _constants as sre
    from re import _parser as parser
except ImportError:  # Python 3.10
    import sre_constants as sre
    import sre_parse as parser

REPEATS = (sre.MAX_REPEAT, sre.MIN_REPEAT)
_CATEGORIES = {
    "WORD": lambda c: c.isalnum() or c == "_",
    "DIGIT": str.isdigit,
    "SPACE": str.isspace,
}


class Counted:
    """steps: the looks that `find` took: all matches as of `finditer`, or the one of `match` or `fullmatch`."""

    def __init__(self, pattern: str, flags: int = 0, how: str = "finditer"):
        self.parsed, self.how, self.steps = parser.parse(pattern, flags), how, 0
        self.flags = self.parsed.state.flags

    def find(self, text: str) -> list[tuple[int, int]]:
        self.steps, at, found = 0, 0, []
        while at <= len(text):
            ends = self._sequence(list(self.parsed), 0, text, at)
            end = next((end for end in ends if self.how != "fullmatch" or end == len(text)), None)
            found += [] if end is None else [(at, end)]
            if self.how != "finditer":
                break
            at = at + 1 if end is None else max(end, at + 1)
        return found

    def _sequence(self, items: list, index: int, text: str, at: int) -> Iterator[int]:
        """Where the items from `index` on may end, in the order in which they are tried."""
        if index == len(items):
            yield at
            return
        for end in self._item(items[index], text, at):
            yield from self._sequence(items, index + 1, text, end)

    def _item(self, item, text: str, at: int) -> Iterator[int]:
        self.steps += 1
        kind, given = item
        if kind in REPEATS:
            yield from self._repeat(*given, kind is sre.MIN_REPEAT, text, at)
        elif kind is sre.SUBPATTERN:
            yield from self._sequence(list(given[-1]), 0, text, at)
        elif kind is sre.BRANCH:
            for choice in given[1]:
                yield from self._sequence(list(choice), 0, text, at)
        elif kind in (sre.ASSERT, sre.ASSERT_NOT):
            direction, inside = given
            begin = at if direction > 0 else at - inside.getwidth()[0]
            found = begin >= 0 and next(self._sequence(list(inside), 0, text, begin), None) is not None
            if found == (kind is sre.ASSERT):
                yield at
        elif kind is sre.AT:
            line = self.flags & sre.SRE_FLAG_MULTILINE
            begin = at == 0 or (line and text[at - 1] == "\n")
            end = at == len(text) or text[at:] == "\n" or (line and text[at] == "\n")
            if begin if given in (sre.AT_BEGINNING, sre.AT_BEGINNING_STRING) else end:
                yield at
        elif at < len(text) and self.fits(item, text[at]):
            yield at + 1

    def _repeat(self, low: int, high: int, inside, lazy: bool, text: str, at: int) -> Iterator[int]:
        single = len(inside) == 1 and inside[0][0] in (sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN)
        if not single:
            yield from self._repeat_any(low, high, list(inside), text, at)
            return
        end = at
        if lazy:
            while True:
                if end - at >= low:
                    yield end
                self.steps += 1
                if end - at >= high or end == len(text) or not self.fits(inside[0], text[end]):
                    return
                end += 1
        while end < len(text) and end - at < high and self.fits(inside[0], text[end]):
            self.steps += 1
            end += 1
        while end - at >= low:
            self.steps += 1
            yield end
            end -= 1

    def _repeat_any(self, low: int, high: int, inside: list, text: str, at: int) -> Iterator[int]:
        if high > 0:
            for end in self._sequence(inside, 0, text, at):
                if end > at:
                    yield from self._repeat_any(max(0, low - 1), high - 1, inside, text, end)
        if low == 0:
            yield at

    def fits(self, item, character: str) -> bool:
        kind, given = item
        if kind is sre.LITERAL:
            return ord(character) == given
        if kind is sre.NOT_LITERAL:
            return ord(character) != given
        if kind is sre.ANY:
            return character != "\n" or bool(self.flags & sre.SRE_FLAG_DOTALL)
        negated = given[0][0] is sre.NEGATE
        return negated != any(_in(part, character) for part in given[negated:])


def _in(part, character: str) -> bool:
    kind, given = part
    if kind is sre.LITERAL:
        return ord(character) == given
    if kind is sre.RANGE:
        return given[0] <= ord(character) <= given[1]
    name = str(given).removeprefix("CATEGORY_").removeprefix("UNI_")
    return _CATEGORIES[name.removeprefix("NOT_")](character) != name.startswith("NOT_")


def attacks(counted: Counted) -> list[tuple[str, str]]:
    """(beginning, what is repeated): texts of the pattern's own pieces, which it takes until it fails."""
    items = _unfolded(counted.parsed)
    starts = {""}
    for end in range(len(items) + 1):
        if any(kind in REPEATS for kind, _ in items[max(0, end - 1) : end + 1]) or end == len(items):
            starts.add(_sample(counted, items[:end]))
    units = {_sample(counted, [item]) for item in _repeated(items, False)} | starts | {" ", "\n", "1", "a"}
    return [(start, unit) for start in sorted(starts) for unit in sorted(units - {""})]


def _unfolded(items) -> list:
    """The items, those of groups in their places."""
    return [i for item in items for i in (_unfolded(item[1][-1]) if item[0] is sre.SUBPATTERN else [item])]


def _repeated(items, inside: bool) -> list:
    """The characters and sets that are in a repeat."""
    found = []
    for kind, given in items:
        if kind in REPEATS:
            found += _repeated(given[2], True)
        elif kind is sre.SUBPATTERN:
            found += _repeated(given[-1], inside)
        elif kind is sre.BRANCH:
            found += [item for choice in given[1] for item in _repeated(choice, inside)]
        elif inside and kind not in (sre.AT, sre.ASSERT, sre.ASSERT_NOT):
            found.append((kind, given))
    return found


def _sample(counted: Counted, items: list) -> str:
    """A short text that the items take."""
    text = ""
    for kind, given in items:
        if kind in REPEATS:
            text += _sample(counted, list(given[2])) * max(1, given[0])
        elif kind is sre.SUBPATTERN:
            text += _sample(counted, list(given[-1]))
        elif kind is sre.BRANCH:
            text += _sample(counted, list(given[1][0]))
        elif kind is sre.LITERAL:
            text += chr(given)
        elif kind not in (sre.ASSERT, sre.ASSERT_NOT, sre.AT):
            text += next(c for c in map(chr, [*b"a1 .<x*", *range(256)]) if counted.fits((kind, given), c))
    return text
