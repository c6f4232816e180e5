"""The identifier's vector as something that learns: alone, beside the UNet, and fixed again in later stages."""

import copy

import longhand
import pytest
import torch
from rounding import NETWORK, assert_near
from trainer_bench import steps

from lib_persres.errors import PersresError
from lib_persres.training.embedding import Embedding
from lib_persres.training.recipe import Recipe, Stage
from lib_persres.training.trainer import Trainer

PROMPT = "a photo of a phol dog"


def make(sd, photos, *stages, seed=5, identifier="phol", options=None, **recipe):
    recipe = Recipe("test", "a test's", stages, crops=1, **recipe)
    return Trainer(sd, photos, "rex", "dog", recipe, resolution=16, seed=seed, identifier=identifier, **(options or {}))


def stage(targets="embedding", count=2, **values):
    return Stage(targets, "2", count, **{"batch": 3, "learning_rate": 1e-2, **values})


def vector(trainer):
    return trainer.residual().embeddings["phol"]


def test_the_written_vector_is_a_row_of_the_encoders_table(sd):
    embedding = Embedding(sd, "phol", "dog", "identifier")
    table = sd.token_embedding.weight
    (token,) = sd.encode_text("phol")
    assert torch.equal(embedding.vectors[""], table[token])
    assert torch.equal(Embedding(sd, "phol", "dog", "class").vectors[""], table[sd.encode_text("dog")[0]])
    texts = [PROMPT, "a phol and a phol", "a dog", ""]
    before = sd.encode_prompts(texts)[0].context
    assert torch.equal(embedding.encode(texts).context, before)
    embedding.vectors[""].data += 0.3
    written = embedding.encode(texts).context
    assert torch.equal(sd.encode_prompts(texts)[0].context, before)
    other = copy.deepcopy(sd.text)
    other.transformer.get_input_embeddings().weight.data[token] = embedding.vectors[""]
    assert_near(written, other(sd.text.tokenize(texts)), NETWORK)
    assert torch.equal(written[2:], before[2:]) and not torch.equal(written[:2], before[:2])


def test_an_identifier_of_several_tokens_cannot_learn(sd):
    with pytest.raises(PersresError, match="identifier of one token"):
        Embedding(sd, "phol phol", "dog", "identifier")


@pytest.mark.parametrize("targets", ["embedding", "embedding+kv+proj_out"])
@pytest.mark.parametrize("options", [{}, {"micro_batch": 2}, {"checkpointing": True}], ids=str)
def test_the_vectors_gradient_is_that_of_the_whole_way_through_encoder_and_unet(
    sd, photos, objectives, targets, options
):
    trainer = make(sd, photos, stage(targets, 1), options=options)
    steps(trainer, 1)
    z_t, t, _, target, _ = (torch.cat(parts) for parts in zip(*objectives))
    embedding = Embedding(sd, "phol", "dog", "identifier")
    context = embedding.encode([PROMPT], learning=True).context.expand(3, -1, -1)
    ((sd.unet(z_t, t, context) - target) ** 2).mean().backward()
    grown = trainer.learned[-1].vectors[""].grad
    assert grown.abs().max() > 0
    assert_near(grown, embedding.vectors[""].grad, 4 * NETWORK)  # two networks, there and back


def test_an_embedding_alone_learns_nothing_else(sd, photos):
    before = longhand.snapshot(sd.unet), longhand.snapshot(sd.text)
    trainer = make(sd, photos, stage(count=3))
    steps(trainer, 3)
    assert (longhand.snapshot(sd.unet), longhand.snapshot(sd.text)) == before
    assert all(weight.grad is None for weight in sd.text.parameters())
    residual = trainer.residual()
    assert residual.factors == {} and residual.metadata.targets == "embedding"
    assert residual.parameters_count() == 32
    residual.check(sd.unet)
    own = sd.token_embedding.weight[sd.encode_text("phol")[0]]
    assert not torch.equal(vector(trainer), own)


def test_its_rate_is_its_own(sd, photos):
    slow, fast = (make(sd, photos, stage("embedding+proj_out", 1, embedding_rate=rate)) for rate in (1e-4, 1e-1))
    for trainer in (slow, fast):
        steps(trainer, 1)
    own = sd.token_embedding.weight[sd.encode_text("phol")[0]]
    moves = [(vector(trainer) - own).abs().max().item() for trainer in (slow, fast)]
    assert moves == pytest.approx([1e-4, 1e-1], rel=1e-2)  # Adam's first step
    for name, factors in slow.residual().factors.items():
        assert torch.equal(factors.up, fast.residual().factors[name].up)


def test_a_later_stage_reads_the_learned_vector_and_leaves_it(sd, photos):
    trainer = make(sd, photos, stage(count=2), stage("kv", 2))
    steps(trainer, 2)
    learned = vector(trainer)
    assert all(not f.up.any() for f in trainer.residual().factors.values())
    with trainer:
        trainer.step()
        expected = trainer.learned[-1].encode([PROMPT, ""]).context
        assert torch.equal(trainer._texts.contexts, expected) and not trainer._texts.contexts.requires_grad
        trainer.step()
    assert torch.equal(vector(trainer), learned)
    assert all(f.up.abs().max() > 0 for f in trainer.residual().factors.values())
    assert trainer.residual().metadata.targets == "embedding+kv"


def test_each_stage_changes_its_own_targets_alone(sd, photos):
    trainer = make(sd, photos, stage("kv", 1), stage("proj_out", 1))
    steps(trainer, 1)
    first = trainer.residual().factors
    assert trainer.stage[0] == 2
    steps(trainer, 1)
    second = trainer.residual().factors
    for path, f in second.items():
        if path.endswith("proj_out"):
            assert f.up.abs().max() > 0 and not first[path].up.any()
        else:
            assert torch.equal(f.up, first[path].up) and f.up.abs().max() > 0


def test_a_training_with_an_embedding_is_resumed_bit_identically(sd, photos, tmp_path):
    stages = stage("embedding+proj_out", 2, keep=1, decay=True), stage("kv", 2)
    whole = make(sd, photos, *stages)
    with whole:
        while not whole.finished:
            whole.step()
            whole.save_state(tmp_path / str(whole.done))
    learned = whole.residual().factors
    for at in (1, 2, 3):
        again = make(sd, photos, *stages)
        again.load_state(tmp_path / str(at))
        assert steps(again, 4 - at) == whole.losses[at:]
        assert torch.equal(vector(again), vector(whole))
        found = again.residual().factors
        assert all(torch.equal(found[name].up, f.up) for name, f in learned.items())


def test_the_file_has_it(sd, photos, tmp_path):
    trainer = make(sd, photos, stage("embedding+proj_out", 1))
    steps(trainer, 1)
    trainer.residual().save(tmp_path / "rex.safetensors")
    loaded = type(trainer.residual()).load(tmp_path / "rex.safetensors")
    assert torch.equal(loaded.embeddings["phol"], vector(trainer).half().float())
    loaded.check(sd.unet)
