import longhand
import pytest
import torch
from branch_calls import plain_plan
from rounding import NETWORK

from lib_persres.branch import Branches
from lib_persres.conditioning import Conditioning
from lib_persres.errors import PersresError
from lib_persres.residual import Residual
from lib_persres.training.latents import Latents, encode_photos
from lib_persres.training.loop import train
from lib_persres.training.objective import noised, objective
from lib_persres.training.recipe import Recipe, Stage


def recipe(steps=4, batch=2, rank="2", rate=1e-2, crops=1, **more):
    return Recipe(
        "test",
        "a test's",
        (Stage(rank=rank, steps=steps, batch=batch, learning_rate=rate),),
        crops=crops,
        **more,
    )


def learn(sd, photos, how=None, **options):
    options = {"resolution": 16, "seed": 5, **options}
    return train(sd, photos, "rex", "dog", how or recipe(), **options)


def weights(residual):
    return {t: (f.down.numpy().tobytes(), f.up.numpy().tobytes()) for t, f in residual.factors.items()}


# -- determinism


def test_the_same_seed_gives_a_bit_identical_residual_and_another_seed_another(sd, photos):
    first = learn(sd, photos)
    torch.rand(7)  # the global generator plays no part
    assert weights(learn(sd, photos)) == weights(first)
    # not only through other crops
    one, other = (weights(learn(sd, photos, recipe(crops=0), seed=seed)) for seed in (5, 6))
    assert all(other[t][0] != one[t][0] and other[t][1] != one[t][1] for t in one)
    assert all(f.up.abs().max() > 0 for f in first.factors.values())


def test_training_leaves_the_global_random_state_alone(sd, photos):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    learn(sd, photos, recipe(steps=1))
    assert torch.equal(torch.rand(4), expected)


# -- stopping


def test_stopping_early_returns_what_the_steps_done_taught(sd, photos):
    done = []
    stopped = learn(
        sd, photos, recipe(steps=50), progress=lambda *a: done.append(a), should_stop=lambda: len(done) >= 3
    )
    assert stopped.metadata.steps == 3
    assert [(step, total) for step, total, _ in done] == [(1, 50), (2, 50), (3, 50)]
    assert weights(stopped) == weights(learn(sd, photos, recipe(steps=3)))


def test_stopping_before_the_first_step_returns_a_residual_that_changes_nothing(sd, photos):
    stopped = learn(sd, photos, should_stop=lambda: True)
    assert stopped.metadata.steps == 0
    assert not any(f.delta().any() for f in stopped.factors.values())


def test_stages_follow_one_another_and_a_stop_ends_them_all(sd, photos):
    stages = (Stage(rank="2", steps=2, batch=2), Stage(rank="2", steps=3, batch=3, learning_rate=5e-3))
    how, done = Recipe("test", "a test's", stages, crops=1), []
    residual = learn(sd, photos, how, progress=lambda *a: done.append(a[:2]))
    assert done == [(step, 5) for step in range(1, 6)] and residual.metadata.steps == 5
    stopped = learn(sd, photos, how, should_stop=lambda: len(done) >= 7, progress=lambda *a: done.append(a))
    assert stopped.metadata.steps == 2 and len(done) == 7


# -- the objective


def test_objective_is_equation_1(sd):
    x, t, context = longhand.inputs(3)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    total = 0.0
    for row in range(3):
        a = sd.alphas_cumprod[t[row]].item()
        noisy = a**0.5 * x[row] + (1 - a) ** 0.5 * noise[row]
        eps = sd.unet(noisy[None], t[row : row + 1], context[row : row + 1])[0]
        total += ((noise[row] - eps).double() ** 2).mean().item() / 3
    z_t = noised(x, t, noise, sd.alphas_cumprod)
    got = objective(sd.unet, z_t, t, Conditioning(context), noise, torch.full((3,), 1 / 3)).item()
    assert got == pytest.approx(total, rel=2 * NETWORK)


def test_latents_are_drawn_from_all_views_with_their_own_means_and_deviations():
    latents = Latents(torch.tensor([0.0, 10.0]).view(2, 1, 1, 1), torch.tensor([1.0, 0.1]).view(2, 1, 1, 1))
    drawn = latents.draw(4000, torch.Generator().manual_seed(0)).flatten()
    low, high = drawn[drawn < 5], drawn[drawn > 5]
    assert 0.45 < len(low) / 4000 < 0.55
    assert abs(low.mean()) < 0.1 and abs(low.std() - 1) < 0.1
    assert abs(high.mean() - 10) < 0.01 and abs(high.std() - 0.1) < 0.01


def test_each_view_of_each_photo_is_encoded_once(sd, photos):
    latents = encode_photos(sd, photos, recipe(crops=3, flips=True), 16, seed=0)
    assert latents.mean.shape == latents.std.shape == (2 * (1 + 3) * 2, 4, 8, 8)
    assert latents.std.min() > 0


def loss_of(sd, residual, photos):
    """Equation 1 with fixed latents, times and noise."""
    latents = encode_photos(sd, photos, recipe(), 16, seed=5)
    conditioning, _ = sd.encode_prompts([f"a photo of a {residual.metadata.identifier} dog"])
    generator = torch.Generator().manual_seed(1)
    z = latents.draw(32, generator)
    t = torch.randint(1000, (32,), generator=generator)
    noise = torch.randn(z.shape, generator=generator)
    plan = plain_plan(32)
    with Branches(sd.unet, [residual]) as branches, torch.no_grad():
        branches.plan = plan
        z_t = noised(z, t, noise, sd.alphas_cumprod)
        return objective(sd.unet, z_t, t, conditioning.expand(32), noise, torch.full((32,), 1 / 32)).item()


def test_the_loss_goes_down(sd, photos):
    options = {"identifier": "olis"}
    start = loss_of(sd, learn(sd, photos, should_stop=lambda: True, **options), photos)
    learned = learn(sd, photos, recipe(steps=40, batch=4, rank="4"), **options)
    assert loss_of(sd, learned, photos) < 0.8 * start
    assert learned.metadata.loss["last"] < 0.9 * learned.metadata.loss["first"]


# -- what is left of it


def left_alone(sd, photos, **options):
    """Train with some weights that want gradients and the modules in training mode; all must come back."""
    unet = sd.unet
    unet.train()
    for index, weight in enumerate(unet.parameters()):
        weight.requires_grad_(index % 2 == 0)
    before = longhand.snapshot(unet), longhand.snapshot(sd.vae), longhand.snapshot(sd.text)
    try:
        yield
        after = longhand.snapshot(unet), longhand.snapshot(sd.vae), longhand.snapshot(sd.text)
        for mine, theirs in zip(after, before, strict=True):
            assert mine == theirs
    finally:
        unet.eval().requires_grad_(False)


def test_training_leaves_flags_modes_hooks_weights_and_gradients_as_they_were(sd, photos):
    for _ in left_alone(sd, photos):
        learn(sd, photos)


@pytest.mark.parametrize("step", [1, 2])
def test_an_exception_in_the_progress_callback_leaves_nothing_behind(sd, photos, step):
    def progress(done, total, loss):
        if done == step:
            raise KeyboardInterrupt

    for _ in left_alone(sd, photos):
        with pytest.raises(KeyboardInterrupt):
            learn(sd, photos, progress=progress)


def test_an_exception_inside_the_forward_leaves_nothing_behind(sd, photos):
    def fail(*_):
        raise ArithmeticError

    handle = sd.unet.middle_block[1].proj_out.register_forward_pre_hook(fail)
    try:
        for _ in left_alone(sd, photos):
            with pytest.raises(ArithmeticError):
                learn(sd, photos)
    finally:
        handle.remove()


def test_the_model_is_in_eval_mode_and_frozen_while_it_trains(sd, photos):
    seen = []

    def progress(*_):
        seen.append((sd.unet.training, any(weight.requires_grad for weight in sd.unet.parameters())))

    for _ in left_alone(sd, photos):
        learn(sd, photos, recipe(steps=2), progress=progress)
    assert seen == [(False, False)] * 2


def test_modules_of_mixed_modes_keep_theirs(sd, photos):
    sd.unet.eval()
    sd.unet.middle_block.train()
    try:
        learn(sd, photos, recipe(steps=1))
        assert sd.unet.middle_block.training and not sd.unet.training
    finally:
        sd.unet.eval()


def test_what_is_learned_needs_no_gradient_and_is_on_the_cpu(sd, photos):
    for f in learn(sd, photos).factors.values():
        for weight in (f.down, f.up):
            assert not weight.requires_grad and weight.is_leaf and weight.device.type == "cpu"
            assert weight.dtype == torch.float32


def test_training_works_where_gradients_are_off_around_it(sd, photos):
    with torch.no_grad():
        inside = learn(sd, photos)
    assert weights(inside) == weights(learn(sd, photos))


# -- the file's facts


def test_metadata_say_how_it_was_made(sd, photos):
    how = recipe(steps=2)
    residual = learn(sd, photos, how, identifier="phol")
    meta = residual.metadata
    assert (meta.concept, meta.identifier, meta.macro_class) == ("rex", "phol", "dog")
    assert (meta.base_family, meta.base_hash) == ("SD1", sd.hash)
    assert (meta.targets, meta.rank, meta.steps, meta.seed) == ("proj_out", "2", 2, 5)
    assert meta.image_hashes == [photo.sha256 for photo in photos]
    kept = dict(meta.recipe)
    assert kept.pop("resolution") == 16 and Recipe.from_dict(kept) == how
    assert len(meta.loss["curve"]) == 2
    assert "" not in vars(meta).values()  # when and with which version, too


def test_without_an_identifier_a_rare_token_is_chosen(sd, photos):
    residual = learn(sd, photos, recipe(steps=1))
    assert len(sd.encode_text(residual.metadata.identifier)) == 1


def test_ranks_follow_the_rule(sd, photos):
    residual = learn(sd, photos, recipe(steps=1, rank="0.1m"))
    assert [f.rank for f in residual.factors.values()] == [3, 6, 6, 6, 6, 3, 3]


def test_a_learned_residual_can_be_saved_and_read(sd, photos, tmp_path):
    residual = learn(sd, photos)
    residual.save(tmp_path / "rex.safetensors")
    again = Residual.load(tmp_path / "rex.safetensors")
    again.check(sd.unet)
    assert again.metadata.to_strings() == residual.metadata.to_strings()


# -- refusals


def test_no_photos_no_class_or_a_bad_identifier_are_refused(sd, photos):
    with pytest.raises(PersresError, match="rex.*no photos"):
        train(sd, [], "rex", "dog", recipe(), resolution=16)
    with pytest.raises(PersresError, match="macro class"):
        train(sd, photos, "rex", "  ", recipe(), resolution=16)
    with pytest.raises(PersresError, match="white space"):
        learn(sd, photos, identifier="my dog")


def test_a_resolution_that_the_autoencoder_cannot_halve_is_refused(sd, photos):
    with pytest.raises(PersresError, match="side"):
        learn(sd, photos, resolution=15)
