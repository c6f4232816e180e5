import pytest

pytest.importorskip("tokenizers")

from lib_persres.errors import PersresError
from lib_persres.standalone.tokenizer import Tokenizer


def test_known_texts_have_clips_ids(tokenizer):
    assert tokenizer.encode("a photo of a dog") == [320, 1125, 539, 320, 1929]
    assert tokenizer.encode("sks") == [48136]
    assert len(tokenizer.encode("ktn")) == 2
    assert (tokenizer.bos, tokenizer.eos, tokenizer.length) == (49406, 49407, 77)
    assert len(tokenizer.vocabulary) == 49408


def test_case_and_spaces_do_not_matter(tokenizer):
    assert tokenizer.encode("  A  Photo\nof a DOG ") == tokenizer.encode("a photo of a dog")
    assert tokenizer.encode("") == []


def test_special_tokens_in_a_text_are_themselves(tokenizer):
    assert tokenizer.encode("end <|endoftext|> x") == [806, tokenizer.eos, 343]


def test_token_strings_show_where_words_end(tokenizer):
    assert tokenizer.token_strings(tokenizer.encode("a dog's")) == ["a</w>", "dog</w>", "'s</w>"]


def test_pad_starts_ends_and_truncates(tokenizer):
    assert tokenizer.pad([5, 6]) == [49406, 5, 6] + [49407] * 74
    long = tokenizer.pad(list(range(100)))
    assert len(long) == 77 and long[1:76] == list(range(75)) and long[76] == 49407


def test_written_vocabulary_gives_the_same_tokenizer_here_and_in_transformers(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer.write_vocabulary(tmp_path)
    again = Tokenizer.find(tmp_path)
    # Not transformers 4's slow tokenizer: without ftfy it splits "it's" as CLIP does not.
    kind = getattr(transformers, "CLIPTokenizerFast", transformers.CLIPTokenizer)
    reference = kind(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    texts = "It's 1234 ÀÉ 日本 x!!! don't", "(((sks))):1.2, <a>", "½² naïve_snake-case"
    for text in texts:
        ids = tokenizer.encode(text)
        assert ids == again.encode(text) == reference(text, add_special_tokens=False)["input_ids"], text


def test_unreadable_vocabularies_are_refused_with_their_name(tmp_path):
    (tmp_path / "vocab.json").write_text("{")
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(PersresError, match="vocab.json"):
        Tokenizer.find(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(PersresError, match="startoftext"):
        Tokenizer.find(tmp_path)
    with pytest.raises(PersresError, match="bpe.gz"):
        (tmp_path / "bpe.gz").write_bytes(b"no gzip")
        Tokenizer.from_bpe_file(tmp_path / "bpe.gz")
