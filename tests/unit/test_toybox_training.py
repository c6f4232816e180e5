"""The composing Toybox: its scenes and captions, grounding, judge, measures, and a tiny training from end to end."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.toybox_base import (
    FIGURES,
    Asked,
    contact_sheet,
    drawn_right,
    map_ious,
    one_thing,
    pairs,
    reconstruction,
    twins,
)
from lib_persres.commands import main
from lib_persres.standalone.checkpoint import alphas_cumprod, load
from lib_persres.standalone.modules import AutoencoderKL
from lib_persres.toybox.judge import GRID, QUESTIONS, Judge, Seen, SeenThing, separate
from lib_persres.toybox.render import render
from lib_persres.toybox.scenes import OPPOSITE, caption_of, relation, scene_of
from lib_persres.toybox.training import autoencoder, dataset, denoiser, step
from lib_persres.toybox.training.autoencoder import (
    DDCONFIG,
    begin_with_averages,
    fold,
    learn_small,
    train_autoencoder,
)
from lib_persres.toybox.training.captions import Captions
from lib_persres.toybox.training.dataset import encode_scenes, render_pictures, scale_of
from lib_persres.toybox.training.denoiser import Model, train_denoiser
from lib_persres.toybox.training.judge import _centre_maps, examples, held_out_accuracy, train_judge
from lib_persres.toybox.training.reconstruction import reconstruction_errors
from lib_persres.toybox.training.step import Timesteps, grounding_loss
from lib_persres.toybox.world import COLOURS

SEED = 21


@pytest.fixture(scope="module")
def scenes():
    return [scene_of(SEED, index) for index in range(600)]


# -- scenes and captions ----------------------------------------------------------------------------------------------


def test_one_and_two_things_come_equally_often_and_three_in_a_few(scenes):
    counts = np.bincount([len(scene.things) for scene in scenes], minlength=4) / len(scenes)
    assert counts[0] == 0 and counts[1] == pytest.approx(counts[2], abs=0.08) and 0 < counts[3] < 0.15


def test_things_of_one_class_have_different_colours(scenes):
    twinned = 0
    for scene in scenes:
        looks = [(thing.cls, thing.colour) for thing in scene.things]
        assert len(set(looks)) == len(looks)
        twinned += len({cls for cls, _ in looks}) < len(looks)
    assert twinned > 60


def test_every_attribute_in_a_caption_belongs_to_the_thing_that_it_stands_before(scenes):
    rng = np.random.default_rng(0)
    for scene in scenes[:200]:
        caption = caption_of(scene, rng, ("sune",))
        for index, thing in enumerate(scene.things):
            owned = [word for word, owner in zip(caption.words, caption.owners) if owner == index]
            assert owned[-1] == thing.cls and set(owned) & set(COLOURS) <= {thing.colour}


def test_words_of_place_are_true_and_stand_in_a_part_of_the_captions(scenes):
    rng = np.random.default_rng(0)
    said = 0
    two = [scene for scene in scenes if len(scene.things) == 2]
    for scene in two:
        caption = caption_of(scene, rng)
        place = next((place for place in OPPOSITE if f" {place} " in f" {caption.text} "), None)
        if place:
            said += 1
            order = list(dict.fromkeys(owner for owner in caption.owners if owner >= 0))
            (ax, ay), (bx, by) = (scene.things[i].centre for i in order)
            assert {"left of": ax < bx, "right of": ax > bx, "above": ay < by, "below": ay > by}[place]
    assert 0.1 < said / len(two) < 0.5


def test_a_relation_turns_round_with_its_things():
    for first, second in (((20, 60), (100, 70)), ((60, 100), (50, 20))):
        assert OPPOSITE[relation(first, second)] == relation(second, first)
    assert relation((20, 20), (100, 100)) is None and relation((60, 60), (70, 60)) is None


def test_words_of_place_are_one_token_each(tokenizer):
    for word in " ".join(OPPOSITE).split():
        assert len(tokenizer.encode(word)) == 1, word


def test_indicators_mark_each_things_class_word(tokenizer):
    captions = Captions(SEED, 40, tokenizer)
    rng = np.random.default_rng(1)
    for index in range(40):
        ids, indicator = captions.draw(index, rng)
        assert len(ids) == 77 and indicator.shape == (3, 77)
        for row, thing in zip(indicator, scene_of(SEED, index).things):
            marked = [tokenizer.token_strings([ids[i]])[0].removesuffix("</w>") for i in np.flatnonzero(row)]
            assert marked[-1] == thing.cls and all(word in captions.rare for word in marked[:-1])
        assert not indicator[len(scene_of(SEED, index).things) :].any()


# -- the denoiser's losses --------------------------------------------------------------------------------------------


def test_grounding_is_nothing_for_maps_that_are_their_things_and_grows_on_the_others():
    masks = torch.zeros(1, 3, 16, 16)
    masks[0, 0, :, :8], masks[0, 1, :, 8:] = 1, 1
    own, one = masks.flatten(2), torch.ones(1)
    assert grounding_loss(own, masks, one).item() == pytest.approx(0, abs=1e-4)
    even = torch.ones(1, 3, 256)
    assert grounding_loss(even, masks, one).item() == pytest.approx(np.log(2), rel=1e-4)
    assert grounding_loss(own[:, [1, 0, 2]], masks, one) > 5
    half = own.clone()
    half[0, 0, :128] = 0  # on its own thing, but on a part of it alone
    assert grounding_loss(half, masks, one) > 1


def test_grounding_leaves_out_things_that_are_not_there_and_rows_without_weight():
    masks = torch.zeros(2, 3, 16, 16)
    masks[:, 0, :4] = 1
    maps = torch.rand(2, 3, 64)
    first = grounding_loss(maps[:1, :1], masks[:1, :1], torch.ones(1))
    assert grounding_loss(maps, masks, torch.tensor([1.0, 0.0])).item() == pytest.approx(first.item(), rel=1e-5)


def test_a_mean_over_drawn_timesteps_is_the_weighted_mean_over_all():
    torch.manual_seed(0)
    alphas = alphas_cumprod(0.00085, 0.012, 1000)
    timesteps = Timesteps(alphas)
    t = torch.cat([timesteps.draw(50) for _ in range(200)])
    snr = alphas / (1 - alphas)
    weight = snr.clamp_max(5) / snr * snr.rsqrt().clamp(1, 4)
    value = alphas.sqrt()
    assert (timesteps.factors[t] * value[t]).mean().item() == pytest.approx((weight * value).mean().item(), rel=0.01)
    assert (t < 100).float().mean() < 0.05 < (t > 900).float().mean()


# -- training ---------------------------------------------------------------------------------------------------------


def tiny_model(sdpa=False):
    one_level = {"channel_mult": [1], "attention_resolutions": [1]}
    unet = {**denoiser.UNET, "model_channels": 32, "context_dim": 32, **one_level}
    text = {**denoiser.TEXT, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    return Model(unet, text)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    pictures = render_pictures(folder / "pictures.npy", 24, SEED)
    small = {**DDCONFIG, "ch": 32, "ch_mult": [1, 1, 1, 1]}
    options = {"log_every": 1, "ddconfig": small}
    vae = train_autoencoder(pictures, folder, steps=2, **options)
    return folder, pictures, vae, encode_scenes(vae, folder / "latents", 12, SEED)


def test_an_autoencoders_training_goes_on_from_its_state(trained):
    folder, pictures, vae, _ = trained
    again = train_autoencoder(pictures, folder, steps=2, ddconfig=vae.ddconfig)
    assert all(torch.equal(a, b) for a, b in zip(vae.parameters(), again.parameters()))
    assert "psnr" in (folder / "autoencoder.log").read_text()


def test_latents_are_of_the_sets_scenes_and_are_not_made_twice(trained):
    folder, pictures, vae, latents = trained
    with torch.no_grad():
        x = torch.from_numpy(np.array(pictures[3:4])).permute(0, 3, 1, 2).float() / 127.5 - 1
        mean, _ = vae.moments(x)
    assert torch.allclose(latents["mean"][3].float(), mean[0], atol=0.1)
    _, masks = render(scene_of(SEED, 3))
    assert latents["masks"][3, 0].sum() / 255 == pytest.approx(masks[0].sum() / 64, rel=0.05)
    assert torch.equal(encode_scenes(None, folder / "latents", 12, SEED)["mean"], latents["mean"])


def test_a_denoisers_training_goes_on_and_is_cooled_down(trained, tokenizer, tmp_path):
    latents = trained[3]
    captions = Captions(SEED, 12, tokenizer)
    saved = []
    options = {"batch": 4, "build": tiny_model, "save_every": 2, "log_every": 1}
    train_denoiser(latents, captions, tmp_path / "a.pt", steps=2, **options)
    train_denoiser(latents, captions, tmp_path / "a.pt", steps=4, **options)
    train_denoiser(latents, captions, tmp_path / "b.pt", steps=4, saved=lambda *a: saved.append(a[0]), **options)
    first, second = (torch.load(tmp_path / name, weights_only=True)["model"] for name in ("a.pt", "b.pt"))
    assert all(torch.allclose(first[name], second[name], atol=1e-4) for name in first)
    assert saved == [2, 4]
    train_denoiser(latents, captions, tmp_path / "a.pt", steps=6, cooled_from=4, **options)
    rates = [float(line.split()[6]) for line in (tmp_path / "a.log").read_text().splitlines()]
    assert rates[:4] == sorted(rates[:4]) and rates[5] == pytest.approx(8e-4 * 6 / 200 / 2, rel=0.01)


def _anew(compute, inputs, weights):
    for weight in weights:
        weight.grad = None
    compute(*inputs)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_recorded_step_learns_what_separate_kernels_do(trained, tokenizer, tmp_path, monkeypatch):
    options = {"batch": 4, "build": tiny_model, "log_every": 1, "device": "cuda", "steps": 12}
    captions = Captions(SEED, 12, tokenizer)
    train_denoiser(trained[3], captions, tmp_path / "graph.pt", **options)
    # the same passes, each by separate kernels
    monkeypatch.setattr(step, "Graph", lambda compute, inputs, weights: lambda *given: _anew(compute, given, weights))
    train_denoiser(trained[3], captions, tmp_path / "kernels.pt", **options)
    graph, kernels = (
        [float(line.split()[2]) for line in (tmp_path / f"{name}.log").read_text().splitlines()]
        for name in ("graph", "kernels")
    )
    assert len(graph) == 12 and graph == pytest.approx(kernels, rel=0.02)


def test_scenes_are_the_same_from_any_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "CHUNK", 2)
    one, two = (render_pictures(tmp_path / f"{n}.npy", 5, SEED, n) for n in (1, 2))
    assert one.shape == (5, 128, 128, 3) and np.array_equal(one, two)
    assert np.array_equal(one[3], render(scene_of(SEED, 3))[0])


def test_the_latents_scale_is_that_of_unit_variance(trained):
    latents, generator = trained[3], torch.Generator().manual_seed(0)
    mean, std = latents["mean"].float(), latents["std"].float()
    drawn = mean + std * torch.randn(mean.shape, generator=generator)
    assert (drawn * scale_of(latents)).std().item() == pytest.approx(1, abs=0.05)


@pytest.fixture(scope="module")
def fresh():
    torch.manual_seed(0)
    vae = AutoencoderKL(DDCONFIG, 4)
    begin_with_averages(vae)
    learn_small(vae, fresh=True)
    return vae


def test_a_fresh_autoencoder_gives_back_the_averages_of_a_picture(fresh):
    x = torch.from_numpy(render(scene_of(SEED, 5))[0]).permute(2, 0, 1)[None].float() / 127.5 - 1
    averages = torch.nn.functional.avg_pool2d(x, 8)
    with torch.no_grad():
        mean, std = fresh.moments(x)
        decoded = fresh.decode(mean)
    assert torch.allclose(mean[:, :3], averages, atol=0.05) and std.max() < 0.15
    assert torch.nn.functional.avg_pool2d(decoded, 8).sub(averages).abs().max() < 0.05


def test_even_colours_pass_the_autoencoders_norms(fresh):
    """Pictures of one colour: nothing but the colour tells one from the other."""
    colours = torch.tensor(list(COLOURS.values())).float()[:, :, None, None] / 127.5 - 1
    with torch.no_grad():
        decoded = fresh.decode(fresh.moments(colours.expand(-1, -1, 64, 64))[0])
    assert (decoded.mean((2, 3)) - colours[..., 0, 0]).abs().max() < 0.12


def test_small_layers_fold_to_plain_ones_with_the_same_weights(fresh):
    again = AutoencoderKL(DDCONFIG, 4)
    learn_small(again)
    again.load_state_dict(fresh.state_dict())
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        before = again.moments(x)[0]
        assert torch.allclose(fold(again).moments(x)[0], before, atol=1e-4)
        half = again.half().float()  # as the checkpoint's file holds it
        assert torch.allclose(half.moments(x)[0], before, atol=0.02)
    assert set(again.state_dict()) == set(AutoencoderKL(DDCONFIG, 4).state_dict())


class Perfect(torch.nn.Module):
    """An autoencoder that gives back what it is given, with something added in one corner."""

    def __init__(self, spot=0.0):
        super().__init__()
        self.spot = torch.nn.Parameter(torch.tensor(float(spot)))

    def moments(self, x):
        return x, x

    def decode(self, z):
        z = z.clone()
        z[..., :4, -4:] += self.spot / 127.5
        return z


def test_reconstruction_errors_find_a_spot_in_a_corner(trained):
    pictures = trained[1][:6] // 2 + 60
    assert reconstruction_errors(Perfect(), pictures)["corner"] < 1e-3
    assert reconstruction_errors(Perfect(20), pictures)["corner"] == pytest.approx(20, rel=0.01)


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder of `train`, with a tiny model of one step."""
    folder = tmp_path_factory.mktemp("command")
    small = {**DDCONFIG, "ch": 32, "ch_mult": [1, 1, 1, 1]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoencoder, "DDCONFIG", small)
        patch.setattr(denoiser, "Model", tiny_model)
        autoencoders = ["--pictures", "20", "--autoencoder-steps", "1", "--autoencoder-batch", "2"]
        yield folder, [*autoencoders, "--scenes", "6", "--batch", "4"]


def test_the_same_command_goes_on_and_copies_are_cooled_down(base):
    folder, options = base
    for steps in (1, 2):
        assert main(["toybox", "train", str(folder), "--steps", str(steps), *options]) == 0
        assert torch.load(folder / "denoiser.pt", weights_only=True)["step"] == steps
    for _ in range(2):  # the second finds the first one finished, and makes the same copy's end again
        assert main(["toybox", "cool", str(folder), "--steps", "1", *options]) == 0
    assert torch.load(folder / "cooled-2.pt", weights_only=True)["step"] == 3
    assert torch.load(folder / "denoiser.pt", weights_only=True)["step"] == 2
    assert (folder / "cooled-2" / "toybox.safetensors").is_file() and not list(folder.glob("*.new"))


def test_what_is_exported_loads_as_a_checkpoint_and_is_measured(base, tmp_path):
    sd = load(base[0] / "latest" / "toybox.safetensors", "cpu")
    figures, judge = {}, Judge().eval()
    for kind in FIGURES:
        figures |= drawn_right(sd, judge, kind, 2, steps=1, sheets=tmp_path, say=lambda text: None)
    figures |= map_ious(sd, 1, say=lambda text: None) | reconstruction(sd, 2)
    wanted = "base_all_right base_pairs base_twins base_places map_iou map_iou_pairs psnr colour_error corner_error"
    assert set(figures) == {f"toybox.{name}" for name in wanted.split()}
    assert {file.stem for file in tmp_path.iterdir()} == {"one", "pairs", "twins", "places"}


# -- the judge --------------------------------------------------------------------------------------------------------


def test_the_judges_examples_ask_for_skins_or_colours():
    data = examples(31, 0, 20)
    there = data["cls"] >= 0
    assert torch.equal((data["colour"] >= 0) | (data["skin"] >= 0), there)
    assert not ((data["colour"] >= 0) & (data["skin"] >= 0)).any()
    assert data["masks"].shape == (20, 3, GRID, GRID) and torch.equal(data["masks"].amax((2, 3)) > 0, there)


def test_true_maps_are_separated_into_the_true_masks():
    data = examples(31, 0, 20)
    hills, offsets = _centre_maps(data["masks"])
    for row in range(20):
        here = (data["masks"][row].sum(0) > 0.5).float() * 2 - 1
        maps = torch.cat([here[None], torch.logit(hills[row] * 0.99 + 0.005)[None], offsets[row]])
        masks, true = separate(maps), data["masks"][row]
        true = true[true.amax((1, 2)) > 0] > 0.5
        assert len(masks) == len(true)
        ious = [max(((m > 0) & t).sum() / ((m > 0) | t).sum() for m in masks) for t in true]
        assert min(ious) > 0.9


def disc(x: float, y: float, radius: float) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    return ((columns - x).square() + (rows - y).square()).sqrt() < radius


@pytest.mark.parametrize(
    ("things", "peaks"),
    [
        ([(16, 16, 11)], [(16, 16), (20, 16)]),  # a large thing that is unsure of its centre
        ([(16, 16, 11)], [(16, 16), (20, 16), (12, 18)]),
        ([(9, 16, 5), (20, 16, 5)], [(9, 16), (20, 16)]),  # two that touch
        ([(16, 16, 8), (16, 16, 0.5), (28, 28, 1)], [(16, 16), (28, 28)]),  # a speck is no thing
    ],
)
def test_centres_nearer_than_two_things_could_be_are_one_thing(things, peaks):
    here = torch.stack([disc(*thing) for thing in things]).any(0)
    centres = torch.full((GRID, GRID), -9.0)
    for number, (x, y) in enumerate(peaks):
        centres[y, x] = 3.0 - number
    separated = separate(torch.stack([here * 2.0 - 1, centres, torch.zeros(GRID, GRID), torch.zeros(GRID, GRID)]))
    large = sum(radius > 3 for *_, radius in things)
    assert len(separated) == large and separated.sum() >= 0.95 * here.sum()


def test_a_judge_learns_resumes_and_sees(tmp_path):
    train_judge(tmp_path, count=12, steps=1, batch=4)
    judge = train_judge(tmp_path, count=12, steps=2, batch=4)
    seen = judge.see(torch.rand(2, 3, 128, 128))
    assert len(seen) == 2 and all(isinstance(one, Seen) for one in seen)
    assert all(getattr(t, q) in QUESTIONS[q] for one in seen for t in one.things for q in QUESTIONS)
    assert set(held_out_accuracy(judge, 8)) >= {"counted", "background"}
    assert sum(p.numel() for p in Judge().parameters()) < 750_000  # 1.5 MB


# -- what is measured -------------------------------------------------------------------------------------------------


def thing(cls, colour, x, y):
    return SeenThing(cls, colour, "plain", "halves-0", (x, y), 0.1, torch.zeros(0))


def test_a_pair_is_right_where_each_colour_is_on_its_thing_and_nothing_else_is_there():
    asked = Asked((("ball", "red"), ("box", "blue")), "snow", "left of")
    assert asked.prompt == "a photo of a red ball left of a blue box in snow"
    ball, box = thing("ball", "red", 30, 60), thing("box", "blue", 90, 70)
    assert asked.things_right(Seen("snow", (box, ball))) and asked.place_right(Seen("snow", (box, ball)))
    assert not asked.things_right(Seen("snow", (ball,))) and not asked.things_right(Seen("snow", (ball, box, box)))
    swapped = (replace(ball, colour="blue"), replace(box, colour="red"))
    assert not asked.things_right(Seen("snow", swapped))
    assert not replace(asked, place="above").place_right(Seen("snow", (box, ball)))


def test_prompts_that_are_measured_are_of_their_kind():
    assert len({one.prompt for one in one_thing(50)}) == 50
    assert all(a.things[0][0] != a.things[1][0] for a in pairs(50))
    assert all(a.things[0][0] == a.things[1][0] and a.things[0][1] != a.things[1][1] for a in twins(50))
    assert {a.place for a in pairs(50, placed=True)} == set(OPPOSITE)


def test_contact_sheets_hold_all_pictures(tmp_path):
    from PIL import Image

    contact_sheet(torch.rand(10, 3, 16, 16), tmp_path / "sheets" / "a.png")
    assert Image.open(tmp_path / "sheets" / "a.png").size == (128, 32)
