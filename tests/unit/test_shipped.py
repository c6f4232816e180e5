"""What the project ships: the Toybox checkpoint and its judge."""

import pytest
import torch
from branch_calls import plain_plan
from PIL import Image
from rounding import PICTURE, assert_near

from benchmarks.toybox_concepts import METHODS, draw, learn, prompts_for, score
from lib_persres.branch import Branches
from lib_persres.evaluation.scores.alignment import cosines
from lib_persres.evaluation.scores.clip import ClipEmbedder
from lib_persres.residual import Residual
from lib_persres.sampler import noise_for, sample
from lib_persres.standalone.checkpoint import load
from lib_persres.toybox import CHECKPOINT
from lib_persres.toybox.concepts import CONCEPTS, photograph
from lib_persres.toybox.judge import WEIGHTS, Judge
from lib_persres.toybox.training import clip as train_clip
from lib_persres.toybox.training.judge import held_out_accuracy
from lib_persres.training.images import load_images
from lib_persres.training.recipes import RECIPES
from lib_persres.unet import find_blocks


@pytest.fixture(scope="module")
def toybox():
    return load(CHECKPOINT, "cpu")


@pytest.fixture(scope="module")
def judge():
    return Judge.load()


def test_the_checkpoint_is_small_and_has_its_sidecars():
    assert CHECKPOINT.stat().st_size <= 40e6
    assert WEIGHTS.stat().st_size <= 1.5e6
    assert CHECKPOINT.with_suffix(".yaml").is_file()
    assert (CHECKPOINT.parent / "text_encoder" / "config.json").is_file()


def test_the_base_model_draws_what_is_asked(toybox, judge):
    asked = [("red", "ball", "on grass"), ("blue", "box", "in snow"), ("green", "cross", "on sand")]
    conditioning, _ = toybox.encode_prompts([f"a photo of a {colour} {cls} {place}" for colour, cls, place in asked])
    uncond, _ = toybox.encode_prompts([""])
    latents = sample(toybox, conditioning, uncond, noise_for([1, 2, 3], (4, 16, 16)), steps=12)
    seen = judge.see(toybox.decode_latents(latents))
    assert [(t.colour, t.cls) for one in seen for t in one.things] == [(colour, cls) for colour, cls, _ in asked]


def test_the_toyboxs_clip_finds_a_pictures_own_caption():
    folder = CHECKPOINT.parent / "clip"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 3e6
    embedder = ClipEmbedder.load(folder)
    captions = {train_clip.full_caption(train_clip.scene_of(99, i)): i for i in range(40)}
    pictures = train_clip.pictures(40, seed=99, workers=1)[list(captions.values())]
    images = embedder.images([Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in pictures])
    found = cosines(images, embedder.texts(list(captions))).argmax(1)
    assert (found == torch.arange(len(found))).float().mean() >= 0.7


def test_the_judge_is_right_on_fresh_renderings(judge):
    shares = held_out_accuracy(judge, 200)
    assert min(shares["one"], shares["two"]) >= 0.97 and shares["skin"] >= 0.95 and shares["iou"] >= 0.85


def test_a_short_training_moves_the_model_towards_the_concept(toybox, tmp_path):
    """At the same noise, the residual's loss on photos that it has not seen is below the base model's."""
    concept = CONCEPTS[0]
    recipe = RECIPES["toybox"].changed(steps=12)
    residual, _ = learn(toybox, concept, tmp_path, recipe)
    fresh = load_images(photograph(concept, tmp_path / "fresh", count=8))[5:]
    pixels = torch.stack([_pixels(photo.image) for photo in fresh])
    z, _ = toybox.encode_images(pixels)
    t = torch.tensor([200, 500, 800])
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    a = toybox.alphas_cumprod[t].view(-1, 1, 1, 1)
    conditioning, _ = toybox.encode_prompts([recipe.prompt(residual.metadata.identifier, concept.cls)] * 3)
    losses = {}
    with Branches(toybox.unet, [residual]) as branches, torch.no_grad():
        for name, strength in (("base", 0.0), ("residual", 1.0)):
            branches.plan = plain_plan(3, strength)
            eps = toybox.unet(a.sqrt() * z + (1 - a).sqrt() * noise, timesteps=t, **conditioning.arguments())
            losses[name] = (eps - noise).square().mean().item()
    assert losses["residual"] < 0.95 * losses["base"]


def _pixels(image):
    import numpy as np

    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def test_methods_start_from_the_same_noise_and_lag_records_its_masks(toybox, judge):
    concept = CONCEPTS[0]
    residual = Residual.initialise(toybox.unet, "4", torch.Generator().manual_seed(0))
    residual.metadata.concept, residual.metadata.identifier = concept.name, "olis"
    residual.metadata.macro_class = concept.cls
    prompt = prompts_for(concept)[0]
    drawn = {method: draw(toybox, residual, prompt, [3], method, steps=3) for method in METHODS}
    # up = 0 at the start: the untrained residual changes nothing, by any method
    assert torch.equal(drawn["base"].images, drawn["plain"].images)
    assert_near(drawn["lag"].images, drawn["base"].images, PICTURE)
    recorder = drawn["lag"].masks
    assert set(recorder.masks) == {block.name for block in find_blocks(toybox.unet)}
    shares = [(masks.mean() / recorder.calls[name]).item() for name, masks in recorder.masks.items()]
    assert all(0.02 < share < 0.5 for share in shares), shares  # nowhere in the first step
    rows = score(judge, concept, prompt, {method: got.images for method, got in drawn.items()})
    assert {row["method"] for row in rows} == set(METHODS)
    assert next(row for row in rows if row["method"] == "plain")["outside"] in (0.0, None)
