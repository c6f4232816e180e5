"""The words of the Toybox's captions, and the part of CLIP's vocabulary that a small CLIP needs to read them.

The tokenizer and its files are CLIP's; only merges that no given word takes are left out, so the words keep their
tokens (under other ids), and any other text still has tokens, down to single bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..standalone.tokenizer import BOS, EOS, Tokenizer, byte_symbols
from .world import BACKGROUNDS, CLASSES, COLOURS, PATTERNS, SIZES, SKINS, Skin

_COLOUR_PAIRS = ("teal magenta", "lime brown", "navy coral", "cream grey")


def skin_words(skin: Skin) -> str:
    """ "halves-0" -> "halves teal magenta"."""
    return f"{skin.layout} {_COLOUR_PAIRS[int(skin.name[-1])]}"


def words() -> list[str]:
    """Every word of the captions, and "the", "style"."""
    texts = [*CLASSES, *COLOURS, *PATTERNS, *SIZES, *BACKGROUNDS.values(), *map(skin_words, SKINS)]
    texts += ["a photo of", "a picture of", "a sketch of", "and ,", "in the style of"]
    return sorted({word for text in texts for word in text.split()})


def part_of(tokenizer: Tokenizer, words: Iterable[str]) -> Tokenizer:
    """The tokenizer with those merges only that the words' tokens are made by, in their order."""
    ranks = {pair: rank for rank, pair in enumerate(tokenizer.merges)}
    taken = sorted({ranks[pair] for word in words for pair in _merges(word, ranks)})
    merges = [tokenizer.merges[rank] for rank in taken]
    symbols = byte_symbols()
    tokens = symbols + [symbol + "</w>" for symbol in symbols]
    tokens += list(dict.fromkeys("".join(pair) for pair in merges))
    return Tokenizer({token: index for index, token in enumerate([*tokens, BOS, EOS])}, merges)


def _merges(word: str, ranks: dict[tuple[str, str], int]) -> list[tuple[str, str]]:
    """The merges that byte-pair encoding applies to an ASCII word, always the one of lowest rank first."""
    parts = [*word[:-1], word[-1] + "</w>"]
    done = []
    while pairs := [pair for pair in zip(parts, parts[1:]) if pair in ranks]:
        best = min(pairs, key=ranks.__getitem__)
        done.append(best)
        joined, index = [], 0
        while index < len(parts):
            if tuple(parts[index : index + 2]) == best:
                joined.append("".join(best))
                index += 2
            else:
                joined.append(parts[index])
                index += 1
        parts = joined
    return done
