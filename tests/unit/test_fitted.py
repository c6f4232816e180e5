"""`fitted`: which maps it takes, how pixels vote and concepts contest, what it remembers; the Toybox, where it fits."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from lib_persres.branch import Branches
from lib_persres.concept_tokens import find_concept_tokens
from lib_persres.concepts import Use
from lib_persres.fitted import Fitted, Level, otsu
from lib_persres.mask import View
from lib_persres.masks import MASKS
from lib_persres.overlay import MaskRecorder
from lib_persres.plan import Plans, Row, guidance_rows
from lib_persres.residual import Factors, Metadata, Residual
from lib_persres.sampler import ddim_timesteps, noise_for, sample
from lib_persres.standalone.checkpoint import load
from lib_persres.standalone.generate import generate
from lib_persres.toybox import CHECKPOINT
from lib_persres.toybox.judge import Judge

ROW = Row(0, 0)
SIDE = 16


def view(block="output_blocks.3.1", size=(SIDE, SIDE), concepts=1, done=0.5, rows=(ROW,)):
    return View(block, size, rows, ((True,) * concepts,) * len(rows), torch.device("cpu"), 1, done)


def blob(top, left, height, width, size=(SIDE, SIDE)):
    made = torch.zeros(size)
    made[top : top + height, left : left + width] = 1
    return made


def shown(mask, *maps, step=1, done=0.5):
    """The masks (K, h, w) in the step after one in which these maps (h, w) were seen."""
    stack = torch.stack([each.flatten() for each in maps])[None]
    mask.see(view(concepts=len(maps), size=maps[0].shape), stack)
    mask.begin(step + 1, done)
    return mask.gate(view(concepts=len(maps), done=done))[0].unflatten(-1, (SIDE, SIDE))


def fresh():
    mask = Fitted()
    mask.begin(0, 0.0)
    return mask


# -- the threshold


def test_otsus_threshold_by_hand():
    values = torch.tensor([[0.1, 0.9, 0.15, 0.85, 0.1], [4.0, 1.0, 1.0, 1.0, 1.0]])
    assert (values > otsu(values)).tolist() == [[False, True, False, True, False], [True] + [False] * 4]


def test_a_single_pixel_has_a_threshold():
    assert otsu(torch.tensor([[0.3]])).shape == (1, 1)


def test_the_upper_group_has_a_least_and_a_largest_share():
    one = torch.zeros(100)
    one[0] = 1.0  # an outlier alone would be the group
    one[1:5] = 0.4
    assert (one > otsu(one, least=0.05)).sum() == 5
    most = torch.ones(100)
    most[:5] = 0.0
    most += torch.linspace(0, 1e-3, 100)
    assert (most > otsu(most, most=0.5)).sum() == 50


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_two_groups_are_parted_whatever_their_sizes(share):
    generator = torch.Generator().manual_seed(0)
    thing = torch.rand(400, generator=generator) < share
    values = thing + 0.15 * torch.randn(400, generator=generator)
    assert ((values > otsu(values)) == thing).float().mean() > 0.97


# -- what it takes


@pytest.mark.parametrize(
    ("sizes", "taken"),
    [
        ([16, 32, 64], 16),  # SD1 at 512
        ([24, 48, 96], 24),  # SD2 at 768
        ([32, 64], 32),  # SDXL at 1024
        ([4, 8, 16], 8),  # the Toybox
        ([2, 4], 4),  # none has so many
    ],
)
def test_the_level_is_the_coarsest_that_has_so_many_pixels(sizes, taken):
    level = Level(8)
    for side in sizes:
        level.takes(view(size=(side, 2 * side)))
    assert level.size == (taken, 2 * taken)
    assert [side for side in sizes if level.takes(view(size=(side, 2 * side)))] == [taken]


def test_only_output_blocks_are_asked_and_of_the_finer_ones_no_map_is_made():
    class Named:
        def __init__(self, name):
            self.name, self.self_attentions = name, (None,) * 10

    mask = Fitted()
    assert mask.asks(Named("input_blocks.1.1"), True) == mask.asks(Named("middle_block.1"), True) == ()
    assert set(mask.asks(Named("output_blocks.3.1"), True)) == {"attn1", "attn2"}
    assert mask.wants(view(size=(16, 16))) and not mask.wants(view("output_blocks.6.1", (32, 32)))


# -- what comes of it


@pytest.mark.parametrize("concepts", [1, 2])
def test_before_anything_is_known_nothing_acts(concepts):
    assert fresh().gate(view(concepts=concepts)).eq(0).all()
    late = Fitted()
    late.begin(3, 0.5)  # one that comes later waits for its first map
    assert late.gate(view(concepts=concepts)).eq(0).all()


@pytest.mark.parametrize("concepts", [1, 2])
def test_of_a_sampling_of_one_evaluation_nothing_can_be_seen_before(concepts):
    mask = Fitted()
    mask.begin(0, None)
    assert mask.gate(view(concepts=concepts)).eq(1).all()


def test_one_concept_acts_where_the_model_has_placed_its_thing():
    mask, thing = fresh(), blob(2, 2, 6, 6)
    for step, (done, acts) in enumerate([(0.05, False), (0.09, False), (0.1, True), (0.5, True)], 1):
        mask.see(view(), thing.flatten()[None, None])
        mask.begin(step, done)
        assert torch.equal(mask.gate(view())[0, 0], thing.flatten() * float(acts))


def test_of_several_concepts_none_acts_until_the_model_has_placed_its_things():
    mask, maps = fresh(), torch.stack([blob(0, 0, 4, 4), blob(8, 8, 4, 4)]).flatten(1)[None] + 0.1
    for step, (done, acts) in enumerate([(0.1, False), (0.19, False), (0.2, True), (None, True)], 1):
        mask.see(view(concepts=2), maps)
        mask.begin(step, done)
        assert mask.gate(view(concepts=2)).bool().any() == acts


def test_a_concept_whose_words_are_louder_wins_no_pixel_by_that():
    left, right = blob(4, 1, 6, 6), blob(4, 9, 6, 6)
    masks = shown(fresh(), 100 * (left + 0.1), right + 0.1)
    assert torch.equal(masks[0], left) and torch.equal(masks[1], right)


def test_a_mask_is_the_thing_at_every_size_of_block():
    thing = blob(4, 4, 6, 4)
    mask = fresh()
    assert torch.equal(shown(mask, thing + 0.1)[0], thing)
    fine = mask.gate(view(size=(32, 32)))[0, 0].unflatten(-1, (32, 32))
    assert (fine == F.interpolate(thing[None, None], size=32, mode="nearest")[0, 0]).float().mean() > 0.95


def test_each_pixel_is_one_concepts_or_nobodys():
    left, right = blob(4, 1, 8, 8), blob(4, 7, 8, 8)  # two columns are claimed by both
    masks = shown(fresh(), 1.0 * left + 0.05, 0.6 * right + 0.05)
    assert masks.sum(0).max() == 1 and masks[:, :4].sum() == 0
    assert masks[0, 4:12, 1:9].eq(1).all() and masks[1, 4:12, 9:15].eq(1).all()


def test_a_concept_that_a_text_lacks_gets_nothing():
    masks = shown(fresh(), blob(4, 4, 6, 4) + 0.1, torch.zeros(SIDE, SIDE))
    assert torch.equal(masks[0], blob(4, 4, 6, 4)) and not masks[1].any()


def test_pixels_that_attend_to_one_another_vote():
    """The map sees a corner of the thing; by its pixels' attention all of it is."""
    thing = blob(4, 4, 8, 8)
    mask = fresh()
    q = 20 * torch.stack([thing.flatten(), 1 - thing.flatten()], -1)[None]
    mask.see_self(view(), 0, q, q, 1)
    assert torch.equal(shown(mask, blob(4, 4, 3, 3))[0], thing)


def test_of_a_deep_block_the_last_layer_votes():
    thing = blob(4, 4, 8, 8)
    right, wrong = (
        20 * torch.stack([each.flatten(), 1 - each.flatten()], -1)[None] for each in (thing, blob(0, 0, 2, 2))
    )
    deep = SimpleNamespace(name="output_blocks.3.1", self_attentions=(None, None))
    for layers in ((wrong, right), (right, wrong)):
        mask = fresh()
        mask.asks(deep, True)
        for layer, q in enumerate(layers):
            mask.see_self(view(), layer, q, q, 1)
        assert torch.equal(shown(mask, blob(4, 4, 3, 3))[0], thing) == (layers[1] is right)


def test_it_remembers():
    claims = 0.2 * blob(2, 2, 12, 12) + blob(6, 6, 4, 4)
    mask = fresh()
    assert torch.equal(shown(mask, claims)[0], blob(6, 6, 4, 4))
    gone = shown(mask, torch.full((SIDE, SIDE), 0.1), step=2)[0]
    assert torch.equal(gone, blob(6, 6, 4, 4))  # by half of what it was
    mask.begin(0, 0.0)
    assert mask.gate(view()).eq(0).all()


def test_rows_have_their_own_and_a_new_one_begins_anew():
    mask, rows = fresh(), (Row(0, 0), Row(1, 0))
    maps = torch.stack([blob(0, 0, 4, 4), blob(8, 8, 4, 4)]).flatten(1)[:, None]
    mask.see(view(rows=rows), maps)
    mask.begin(2, 0.5)
    masks = mask.gate(view(rows=(Row(1, 0), Row(2, 0))))
    assert torch.equal(masks[0, 0], maps[1, 0]) and masks[1].eq(0).all()


# -- on the Toybox


@pytest.fixture(scope="module")
def toybox():
    return load(CHECKPOINT, "cpu")


def seen_by(sd, prompt, identifiers, classes, steps=10, seed=3):
    """The masks of the last two thirds of the steps at the finest block, and what the judge sees."""

    conditioning, ids = sd.encode_prompts([prompt, ""])
    spelled = [(sd.encode_text(identifier), sd.encode_text(cls)) for identifier, cls in zip(identifiers, classes)]
    tokens = [
        find_concept_tokens(ids[0].tolist(), *own, others=[each for each in spelled if each is not own]).indices
        for own in spelled
    ]
    untrained = [Residual.initialise(sd.unet, "1") for _ in classes]  # which changes nothing
    recorder, calls = MaskRecorder(1), []
    plan = Plans([[Use(1.0, True, (each,)) for each in tokens]]).plan(guidance_rows(1), 77)
    with Branches(sd.unet, untrained, MASKS["fitted"](), recorder) as branches:
        handle = sd.unet.register_forward_hook(lambda *_: calls.append(None))

        def before_step(index, t):
            if index == steps // 3:
                recorder.end()
                recorder.masks.clear(), recorder.calls.clear()
            branches.begin(index, index / steps)
            branches.plan = plan

        latents = sample(
            sd, conditioning[:1], conditioning[1:], noise_for([seed], (4, 16, 16)), steps, 6.0, before_step=before_step
        )
        handle.remove()
    recorder.end()
    assert len(calls) == len(ddim_timesteps(steps))  # never a second pass
    (picture,) = Judge.load().see(sd.decode_latents(latents))
    return recorder.mean(blocks=["output_blocks.5.1"], size=(128, 128))[0], picture


def iou(mask, truth):
    here = mask > 0.5
    return ((here & truth).sum() / (here | truth).sum()).item()


def test_on_the_toybox_it_fits_one_thing(toybox):
    (mask,), picture = seen_by(toybox, "a photo of a olis ball on sand", ["olis"], ["ball"])
    (thing,) = picture.things
    assert thing.cls == "ball" and iou(mask, thing.mask) > 0.75


def test_on_the_toybox_it_fits_each_of_two_things_and_takes_nothing_of_the_other(toybox):
    prompt, classes = "a photo of a olis ball and a olis box on sand", ["ball", "box"]
    masks, picture = seen_by(toybox, prompt, ["olis", "olis"], classes)
    things = {thing.cls: thing.mask for thing in picture.things}
    for mask, own, other in zip(masks, classes, classes[::-1]):
        assert iou(mask, things[own]) > 0.6 and (mask[things[other]] > 0.5).float().mean() < 0.1


def test_lag_by_it_draws_and_differs_from_plain_sampling(toybox):

    generator = torch.Generator().manual_seed(1)
    rex = Residual.initialise(toybox.unet, "4", generator, Metadata(identifier="olis", macro_class="ball"))
    for path, f in rex.factors.items():
        rex.factors[path] = Factors(f.down, 0.1 * torch.randn(f.up.shape, generator=generator))
    asked = ("<persres:rex>a photo of a V* ball on grass", lambda name: rex)
    given = {"seeds": [1], "width": 128, "height": 128, "steps": 6}
    plain, lag = (generate(toybox, *asked, lag=lag, **given).images for lag in (False, True))
    assert (plain - lag).abs().mean() > 0.01
    assert torch.equal(lag, generate(toybox, *asked, lag=True, mask="fitted", **given).images)
    assert not torch.equal(lag, generate(toybox, *asked, lag=True, mask="median", **given).images)


# -- what must not end it


def test_a_map_that_is_not_finite_is_gone_with_its_step():
    thing, other = blob(2, 2, 6, 6), blob(9, 9, 5, 5)
    broken = thing.clone()
    broken[0, 0] = torch.nan
    mask = fresh()
    for maps in ((broken, other), (thing, other)):
        masks = shown(mask, *maps)
        assert torch.equal(masks[0], thing) and torch.equal(masks[1], other)


def test_attentions_beyond_half_precision_are_seen():
    mask, thing = fresh(), blob(2, 2, 6, 6)
    q = (torch.stack([thing, 1 - thing], -1).flatten(0, 1)[None] * 400).half()  # 400² is beyond fp16
    mask.see_self(view(), 0, q, q, 1)
    mask.see(view(), (thing + 0.1).flatten()[None, None])
    mask.begin(2, 0.5)
    assert torch.equal(mask.gate(view())[0, 0], thing.flatten())


def test_an_evaluation_of_another_size_has_its_own_maps():
    mask = fresh()
    shown(mask, blob(2, 2, 6, 6))
    large = (24, 24)
    moved = blob(12, 12, 6, 6, large)
    mask.see(view(size=large), moved.flatten()[None, None])
    mask.begin(3, 0.6)
    masks = mask.gate(view(size=large))[0, 0].unflatten(-1, large)
    assert torch.equal(masks, moved)


def test_neighbours_vote_together_where_there_are_many():
    """As all pixels would: those of the thing attend to one another, and to nothing else."""
    size = (50, 70)
    thing = torch.zeros(size)
    thing[10:30, 20:40] = 1
    q = torch.stack([thing, 1 - thing], -1).flatten(0, 1)[None] * 8
    mask = fresh()
    mask.see(view(size=size), (thing + 0.1).flatten()[None, None])
    mask.see_self(view(size=size), 0, q, q, 1)
    ((voters, weights),) = mask._voters[ROW].values()
    assert voters == (25, 35) and weights.shape == (25 * 35, 25 * 35)
    assert torch.allclose(weights.sum(-1), torch.ones(25 * 35))
    mask.begin(2, 0.5)
    masks = mask.gate(view(size=size))[0, 0].unflatten(-1, size)
    assert (masks - thing).abs().mean() < 0.02
