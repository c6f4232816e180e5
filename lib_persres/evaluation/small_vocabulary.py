"""A part of CLIP's vocabulary: what a small CLIP needs to read a small world's words.

The tokenizer and its files are CLIP's; only merges that no given word takes are left out, so the words keep their
tokens (under other ids), and any other text still has tokens, down to single bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..standalone.tokenizer import BOS, EOS, Tokenizer, byte_symbols


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
