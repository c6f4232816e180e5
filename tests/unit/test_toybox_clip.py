"""The Toybox's small CLIP: its words, its loss, its training that resumes, its files that the embedder reads."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

pytest.importorskip("transformers")

from lib_persres.evaluation.scores.clip import ClipEmbedder  # noqa: E402
from lib_persres.toybox.training import clip as tc  # noqa: E402
from lib_persres.toybox.vocabulary import (
    part_of,  # noqa: E402
    skin_words,
    words,
)
from lib_persres.toybox.world import SKINS  # noqa: E402

SMALL = {"scenes": 24, "batch": 8, "width": 32, "layers": 1, "say": lambda *a, **k: None}


@pytest.fixture(scope="module")
def tokenizers(tokenizer):
    return tokenizer, part_of(tokenizer, words())


def test_a_part_of_the_vocabulary_gives_the_words_clips_own_tokens(tokenizers):
    whole, part = tokenizers
    for word in [*words(), "a photo of a halves teal magenta ball on bricks , and"]:
        assert part.token_strings(part.encode(word)) == whole.token_strings(whole.encode(word))
    assert len(part.vocabulary) < 1000 and sorted(part.vocabulary.values()) == list(range(len(part.vocabulary)))
    # any other text still has tokens, and none is the end token that stands for the unknown
    for text in ("xylophone", "Ωλ 日本 7!"):
        assert part.encode(text) and part.eos not in part.encode(text)
        back = "".join(part.token_strings(part.encode(text))).replace("</w>", "")
        assert back == "".join(whole.token_strings(whole.encode(text))).replace("</w>", "")


def test_captions_use_the_listed_words_and_name_every_skin():
    known = set(words())
    assert len({skin_words(skin) for skin in SKINS}) == len(SKINS)
    for index in range(60):
        scene = tc.scene_of(tc.TRAINING, index)
        assert all((thing.skin is not None) == (index % 2 == 1) for thing in scene.things)
        said = tc.caption(scene, np.random.default_rng(index), said=1.0)
        assert set(f"{said} {tc.full_caption(scene)}".split()) <= known
        for thing in scene.things:
            if thing.skin:
                assert skin_words(thing.skin) in said and skin_words(thing.skin) in tc.full_caption(scene)
        assert not any(thing.skin and skin_words(thing.skin) in tc.caption(scene, np.random.default_rng(0), 0.0)
                       for thing in scene.things)  # fmt: skip


def test_the_loss_is_clips_and_equal_captions_share_the_answer():
    image, text = (F.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(i))) for i in (0, 1))
    logits = 5 * image @ text.T
    own = torch.arange(4)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    scale = torch.tensor(5.0)
    assert tc.contrast(image, text, scale, list("abcd")) == pytest.approx(expected.item(), rel=1e-4)
    # two equal pictures with one caption: nothing can be better than an even guess between them
    same = F.normalize(torch.eye(2))[[0, 0, 1]]
    assert tc.contrast(same, same, torch.tensor(50.0), ["a", "a", "b"]) == pytest.approx(2 / 3 * np.log(2), abs=1e-4)


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path):
    class Killed(Exception):
        pass

    def die(text, **_):
        if " 2/4 " in text:
            raise Killed

    whole = tc.train(tmp_path / "a", steps=4, save_every=2, **SMALL)
    with pytest.raises(Killed):
        tc.train(tmp_path / "b", steps=4, save_every=2, **{**SMALL, "say": die})
    resumed = tc.train(tmp_path / "b", steps=4, save_every=2, **SMALL)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values()):
        assert torch.equal(a, b), name


def test_the_embedder_reads_the_exported_model_with_its_own_vocabulary(tmp_path, tokenizers):
    _, part = tokenizers
    model = tc.train(tmp_path, steps=1, **SMALL)
    embedder = ClipEmbedder.load(tmp_path / "model")
    pixels = tc.pictures(3, tc.HELD_OUT)
    texts = [tc.full_caption(tc.scene_of(tc.HELD_OUT, i)) for i in range(3)]
    with torch.no_grad():
        image, text = tc.features(model, pixels, tc.encode(part, texts))
    seen = embedder.images([Image.fromarray(p.permute(1, 2, 0).numpy()) for p in pixels])
    assert torch.allclose(F.normalize(seen), image, atol=5e-3)  # fp16 weights
    assert torch.allclose(F.normalize(embedder.texts(texts)), text, atol=5e-3)


def test_the_full_size_model_fits_4_megabytes(tokenizers):
    model = tc.new_model(tokenizers[1])
    assert 2 * sum(weight.numel() for weight in model.parameters()) < 4_000_000


def test_retrieval_by_an_untrained_model_is_chance(tokenizers):
    _, part = tokenizers
    found = tc.retrieval_accuracy(tc.new_model(part, 32, 1), part, count=40)
    assert set(found) == {"image_to_text", "text_to_image"} and max(found.values()) <= 0.2
