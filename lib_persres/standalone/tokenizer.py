"""CLIP's byte-pair tokenizer, from files already on this machine; nothing is ever downloaded.

The vocabulary comes from a folder (vocab.json + merges.txt, as beside a text encoder) or from the file
`bpe_simple_vocab_16e6.txt.gz` that the packages `clip` and `open_clip` install.
"""

import gzip
import importlib.util
import json
from pathlib import Path

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from lib_persres.errors import PersresError, first_line

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
MERGES = 49152 - 256 - 2  # the BPE file is longer than CLIP's vocabulary; only these are used
MOST = 1 << 20
"""Tokens of a vocabulary; CLIP's has 49,408."""
LARGEST_FILE = 16 << 20
"""Bytes of vocab.json or merges.txt; CLIP's have 1 million."""
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def byte_symbols() -> list[str]:
    """The 256 printable characters that stand for bytes, in the order of CLIP's vocabulary.

    Printable Latin-1 bytes stand for themselves and come first; the others are shifted above U+0100.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = sorted(set(range(256)) - set(printable))
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(hidden))]


class Tokenizer:
    """Text to CLIP's token ids.

    vocabulary: token -> id; merges: pairs, the most frequent first.
    """

    length = 77

    def __init__(self, vocabulary: dict[str, int], merges: list[tuple[str, str]]):
        if not isinstance(vocabulary, dict) or not all(type(i) is int and 0 <= i < MOST for i in vocabulary.values()):
            raise PersresError("The tokenizer's vocabulary is no list of tokens and their numbers: it is not CLIP's.")
        for token in (BOS, EOS):
            if token not in vocabulary:
                raise PersresError(f"The tokenizer's vocabulary lacks {token}: it is not CLIP's.")
        for left, right in merges:
            if not {left, right, left + right} <= vocabulary.keys():
                raise PersresError(f"The tokenizer's merge of {left} and {right} is not in its vocabulary.")
        self.vocabulary, self.merges = dict(vocabulary), [(left, right) for left, right in merges]
        self.largest = max(vocabulary.values())
        self.bos, self.eos = vocabulary[BOS], vocabulary[EOS]
        self._strings = {index: token for token, index in self.vocabulary.items()}
        # The same pipeline as transformers' CLIPTokenizerFast, built here so that it does not depend on
        # which release of transformers is installed.
        self._bpe = tokenizers.Tokenizer(
            models.BPE(
                vocab=self.vocabulary,
                merges=self.merges,
                continuing_subword_prefix="",
                end_of_word_suffix="</w>",
                fuse_unk=False,
                unk_token=EOS,
            )
        )
        self._bpe.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        self._bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(WORDS), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        self._bpe.add_special_tokens([BOS, EOS])

    @classmethod
    def from_folder(cls, folder) -> "Tokenizer":
        """Read vocab.json and merges.txt."""
        folder = Path(folder)
        try:
            vocabulary = json.loads(_text(folder / "vocab.json"))
            lines = _text(folder / "merges.txt").split("\n")
        except (OSError, ValueError, RecursionError) as error:
            raise PersresError(f"{folder}: vocab.json and merges.txt cannot be read: {first_line(error)}.") from error
        if lines and lines[0].startswith("#version"):
            lines = lines[1:]
        return cls(vocabulary, _pairs(lines, folder / "merges.txt"))

    @classmethod
    def from_bpe_file(cls, path) -> "Tokenizer":
        """Read OpenAI's bpe_simple_vocab_16e6.txt.gz: a header line, then one merge a line."""
        try:
            with gzip.open(path, "rt", encoding="utf-8") as file:
                lines = file.read().split("\n")[1 : MERGES + 1]
        except (OSError, EOFError, ValueError) as error:
            raise PersresError(f"{path}: the tokenizer's merges cannot be read: {first_line(error)}.") from error
        merges = _pairs(lines, path)
        symbols = byte_symbols()
        tokens = symbols + [symbol + "</w>" for symbol in symbols]
        tokens += ["".join(pair) for pair in merges] + [BOS, EOS]
        return cls({token: index for index, token in enumerate(tokens)}, merges)

    @classmethod
    def find(cls, *folders) -> "Tokenizer":
        """The first of `folders` that holds a vocabulary, else an installed package's."""
        for folder in folders:
            if (Path(folder) / "vocab.json").is_file() and (Path(folder) / "merges.txt").is_file():
                return cls.from_folder(folder)
        for package in ("clip", "open_clip"):
            # find_spec locates the package without importing it: importing would pull torchvision in.
            spec = importlib.util.find_spec(package)
            for root in (spec.submodule_search_locations or ()) if spec else ():
                path = Path(root) / "bpe_simple_vocab_16e6.txt.gz"
                if path.is_file():
                    return cls.from_bpe_file(path)
        raise PersresError(
            "No CLIP vocabulary was found: put vocab.json and merges.txt into the checkpoint's text encoder "
            "folder, or install the package open_clip_torch or clip-anytorch."
        )

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without start and end tokens and of any length."""
        try:
            return self._bpe.encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeEncodeError) as error:  # a lone surrogate: what Python makes of bytes in arguments
            raise PersresError(f"The text {text!r} is not UTF-8: write it again.") from error

    def pad(self, ids: list[int], padding: int | None = None) -> list[int]:
        """77 ids: start, at most 75 of `ids`, end, and padding: the end token again, unless another is given."""
        ids = [self.bos, *list(ids)[: self.length - 2], self.eos]
        return ids + [self.eos if padding is None else padding] * (self.length - len(ids))

    def token_strings(self, ids) -> list[str]:
        """The vocabulary's entries, e.g. ["a</w>", "photo</w>"]; "</w>" ends a word."""
        return [self._strings[int(index)] for index in ids]

    def write_vocabulary(self, folder) -> None:
        """Write vocab.json and merges.txt, as transformers' CLIPTokenizer reads them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocab.json").write_text(json.dumps(self.vocabulary, ensure_ascii=False), encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in self.merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _text(path: Path) -> str:
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path.name} is larger than {LARGEST_FILE} bytes")
    return path.read_text(encoding="utf-8")


def _pairs(lines: list[str], source) -> list[tuple[str, str]]:
    pairs = [line.split() for line in lines if line.strip()]
    if any(len(pair) != 2 for pair in pairs):
        raise PersresError(f"{source} is not a list of BPE merges: a line does not hold two tokens.")
    return [(left, right) for left, right in pairs]
