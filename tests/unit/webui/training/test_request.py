"""The settings of a training and the photos that come with them."""

import base64
import json
from dataclasses import fields, replace

import pytest
from standalone_models import tiny_unet

from lib_persres.errors import PersresError
from lib_persres.metadata import Metadata
from lib_persres.training.options import STAGE_OPTIONS, TARGETS
from lib_persres.training.recipe import Recipe
from lib_persres.training.recipes import RECIPES
from lib_persres.webui.training import photos
from lib_persres.webui.training.job import curve
from lib_persres.webui.training.request import Request

GOOD = {"concept": "rex", "macro_class": " dog "}


@pytest.fixture(scope="module")
def unet():
    return tiny_unet()


def test_a_request_survives_its_dict_and_takes_null_for_the_default():
    request = Request.from_dict({**GOOD, "steps": 7, "rank": 8, "flips": None, "seed": None})
    assert request.macro_class == "dog" and request.rank == "8" and request.seed == 0
    assert Request.from_dict(request.to_dict()) == request
    assert request.recipe_for("paper").stages[0].steps == 7


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"concept": "a/b"}, "The name 'a/b' cannot be used"),
        ({"concept": ""}, r"needs a name \(concept\)"),
        ({"concept": 5}, "concept is '5'; allowed is a text"),
        ({"macro_class": None}, "needs a class"),
        ({"macro_class": "a dog, big"}, "The class 'a dog, big' cannot be used"),
        ({"recipe": "secret"}, "no recipe 'secret'; the recipes are paper, toybox"),
        ({"steps": 0}, "steps is '0'; allowed is a whole number from 1"),
        ({"steps": True}, "steps is 'True'"),
        ({"steps": 2.5}, "steps is '2.5'"),
        ({"learning_rate": 3}, "learning_rate is '3'; allowed is a number between 1e-10 and 1"),
        ({"learning_rate": float("nan")}, "learning_rate is 'nan'"),
        ({"rank": "lots"}, "The rank 'lots'"),
        ({"targets": "everything"}, "'everything' names no targets: they are .*proj_out"),
        ({"precision": "int4"}, "precision is 'int4'; allowed is .* float32, bfloat16, float16"),
        ({"checkpointing": "yes"}, "checkpointing is 'yes'; allowed is true or false"),
        ({"flips": 1}, "flips is '1'; allowed is true or false"),
        ({"template": "a photo"}, "must hold {identifier} and {macro_class}"),
        ({"template": "{identifier} {macro_class} {0}"}, "can hold"),
        ({"batch": 1, "recipe": "toybox"}, "cannot have 4 localized rows"),
        ({"overwrite": "yes"}, "overwrite is 'yes'"),
        ({"colour": 1, "size": 2}, "does not know colour, size; it knows concept"),
    ],
)
def test_what_is_not_understood_is_refused_in_one_sentence(changes, words):
    with pytest.raises(PersresError, match=words) as error:
        Request.from_dict({**GOOD, **changes})
    assert "\n" not in str(error.value)


ODD = [10**400, -(10**400), 10**5000, -(10**5000), float("nan"), float("inf"), True, [], {}, ["a"], {"a": 1}]
ODD += ["\ud800", "x" * 10**6]


@pytest.mark.parametrize("name", [field.name for field in fields(Request)])
def test_no_odd_value_of_any_field_is_more_than_a_sentence(name):
    deep = []
    for _ in range(900):
        deep = [deep]
    for value in (*ODD, deep):
        try:
            request = Request.from_dict({**GOOD, name: value})
        except PersresError as error:
            assert 0 < len(str(error)) <= 300 and "\n" not in str(error)
        else:  # taken for what it is: a switch, or a text
            assert getattr(request, name) is value is True
            assert json.dumps(request.to_dict(), allow_nan=False).encode()


@pytest.mark.parametrize("value", [10**5000, -(10**5000)], ids=["large", "small"])
def test_a_number_that_python_cannot_write_is_refused_for_what_it_is(value):
    for name in ("steps", "learning_rate", "concept", "template", "flips", "rank"):
        with pytest.raises(PersresError, match=f"'s {name} is a number of more than 60 digits; allowed"):
            Request.from_dict({**GOOD, name: value})
    with pytest.raises(PersresError, match="does not know a number of more than 60 digits"):
        Request.from_dict({**GOOD, value: 1})


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"batch": 64, "resolution": 2048}, "64 rows of a step at 2048×2048 are 268 million pixels at a time"),
        ({"crops": 100, "resolution": 1024}, "101 views of a photo at 1024×1024 are 105 million pixels"),
        ({"resolution": 2048, "recipe": "lora", "crops": 40}, "41 views of a photo"),
        ({"learning_rate": 1e-320}, "allowed is a number between 1e-10 and 1"),
        ({"template": "a \x1b {identifier} {macro_class}"}, r"The template .* has a control character \(U\+001B\)"),
        ({"preview_prompt": "a V* dog\x07"}, r"The preview's prompt .* has a control character \(U\+0007\)"),
    ],
)
def test_what_no_machine_or_model_can_do_is_refused_before_it_is_queued(changes, words):
    with pytest.raises(PersresError, match=words):
        Request.from_dict({**GOOD, **changes})
    Request.from_dict({**GOOD, "batch": 64, "resolution": 1024, "crops": 20, "preview_prompt": "a\nV* dog"})
    Request.from_dict({**GOOD, "batch": 64, "micro_batch": 1, "resolution": 2048})


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"rank": 1_000_000}, "The rank 1000000 is above 64, the largest of proj_out in this model"),
        ({"rank": "65.0"}, "The rank 65.0 is above 64"),
        ({"rank": 999, "recipe": "lora"}, "is above 64, the largest of attn1.attn2"),
        ({"resolution": 8}, "The resolution 8 does not fit this model: take a multiple of 16"),
        ({"resolution": 24}, "The resolution 24 does not fit this model"),
    ],
)
def test_what_the_loaded_model_cannot_follow_is_refused(unet, changes, words):
    with pytest.raises(PersresError, match=words):
        Request.from_dict({**GOOD, **changes}).refuse_unfit(unet, 512)


def test_what_it_can_follow_is_taken(unet):
    for changes in ({}, {"rank": 64, "resolution": 16}, {"rank": "1m"}, {"recipe": "textual-inversion", "rank": 5}):
        Request.from_dict({**GOOD, **changes}).refuse_unfit(unet, 512)


def test_it_is_refused_when_it_is_submitted(bench):
    b = bench()
    with pytest.raises(PersresError, match="The resolution 8 does not fit"):
        b.submit(resolution=8)
    with pytest.raises(PersresError, match="The name .* is too long"):
        b.submit("日" * 90)
    assert b.jobs.list() == []


def test_a_value_that_only_another_recipe_refuses_is_taken():
    assert Request.from_dict({**GOOD, "batch": 1}).batch == 1


@pytest.mark.parametrize("targets", TARGETS)
def test_targets_are_the_recipes_own_unless_they_are_given(targets):
    request = Request.from_dict({**GOOD, "targets": targets, "precision": None})
    assert {stage.targets for stage in request.recipe_for("toybox").stages} == {targets} and request.precision == ""
    metadata = Metadata("rex", "olis", "dog", recipe=request.recipe_for("paper").changed(resolution=64).to_dict())
    assert Request.from_metadata(metadata).recipe_for("paper").stages[0].targets == targets


def test_a_record_of_before_these_settings_is_still_read():
    old = Request("rex", "dog").to_dict()
    for name in ("targets", "precision", "checkpointing"):
        del old[name]
    assert Request.from_dict(old) == Request("rex", "dog")


@pytest.mark.parametrize("name", list(RECIPES))
@pytest.mark.parametrize("changes", [{}, {"steps": 9, "rank": "3", "flips": True, "learning_rate": 0.03}])
def test_a_residuals_file_gives_its_settings_back(name, changes):
    if len(RECIPES[name].stages) > 1:
        apart = [option.name for option in STAGE_OPTIONS if option.apart]
        changes = {key: value for key, value in changes.items() if key not in apart}
    recipe = RECIPES[name].changed(resolution=64, **changes)
    metadata = Metadata(concept="rex", macro_class="dog", recipe=recipe.to_dict(), seed=3)
    request = Request.from_metadata(metadata)
    assert request == Request("rex", "dog", name, **changes, resolution=64, seed=3)


def test_a_file_of_an_unknown_or_bent_recipe_is_refused():
    own = Recipe("my own", "")
    with pytest.raises(PersresError, match="'my own', which is not known here"):
        Request.from_metadata(Metadata("rex", "olis", "dog", recipe=own.to_dict()))
    with pytest.raises(PersresError, match="names no recipe"):
        Request.from_metadata(Metadata("rex", "olis", "dog"))
    bent = replace(RECIPES["paper"], stages=(replace(RECIPES["paper"].stages[0], decay=True),))
    for recipe in (bent, RECIPES["attndreambooth"].changed(steps=9)):
        with pytest.raises(PersresError, match="cannot be set here"):
            Request.from_metadata(Metadata("rex", "olis", "dog", recipe=recipe.to_dict()))


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if len(recipe.stages) > 1])
def test_values_that_each_stage_has_of_its_own_are_refused_by_name(name):
    assert Request.from_dict({**GOOD, "recipe": name, "rank": "4", "crops": 1}).recipe_for(name).rank == "4"
    said = f"{name} has {len(RECIPES[name].stages)} stages .*: leave out targets, steps.$"
    with pytest.raises(PersresError, match=said):
        Request.from_dict({**GOOD, "recipe": name, "steps": 5, "targets": "kv"})


def test_pictures_of_the_class_are_refused_where_a_recipe_has_no_use_for_them():
    for name in ("", "paper"):
        with pytest.raises(PersresError, match="has no use for pictures of .*dreambooth, custom-diffusion, oft"):
            Request.from_dict({**GOOD, "recipe": name}).refuse_class_images()
    Request.from_dict({**GOOD, "recipe": "dreambooth"}).refuse_class_images()


# -- photos


def test_base64_is_read_with_and_without_its_url_and_name():
    text = base64.b64encode(b"abc").decode()
    given = [text, f"data:image/png;base64,{text}", {"name": "x.png", "data": text}]
    assert photos.from_base64(given) == [("number 1", b"abc"), ("number 2", b"abc"), ("x.png", b"abc")]


@pytest.mark.parametrize(
    "images, words",
    [
        ("text", "must be a list"),
        ([], "No images were given"),
        (["YQ=="] * 201, "201 images were given"),
        (["a b"], "number 1 is not in base64"),
        ([3], "number 1 is no text"),
        ([{"name": [[1]], "data": "*"}], "number 1 is not in base64"),
    ],
)
def test_bad_base64_is_named(images, words):
    with pytest.raises(PersresError, match=words):
        photos.from_base64(images)


def test_large_images_are_refused(monkeypatch):
    with pytest.raises(PersresError, match="big has 129 MiB, but at most 128 are allowed"):
        photos.check_sizes([("big", bytes(129 << 20))])
    monkeypatch.setattr(photos, "MOST_BYTES", 1 << 20)
    with pytest.raises(PersresError, match="big has 2 MiB"):
        photos.from_base64([{"name": "big", "data": "A" * (3 << 20)}])


def test_only_allowed_folders_are_read(tmp_path):
    inside, outside = tmp_path / "in" / "photos", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir(parents=True)
        (folder / "b.png").write_bytes(b"b")
        (folder / "a.JPG").write_bytes(b"a")
        (folder / "notes.txt").write_bytes(b"no image")
    allowed = [tmp_path / "in"]
    found, notes = photos.from_folder(str(inside), allowed)
    assert found == [("a.JPG", inside / "a.JPG"), ("b.png", inside / "b.png")]
    assert notes == ["Passed over in photos: 1 text file."]
    (inside / "out").symlink_to(outside)
    for bad in map(str, (outside, inside / ".." / ".." / "out", inside / "out", "photos", tmp_path / "never")):
        with pytest.raises(PersresError, match="is not one that a training may read"):
            photos.from_folder(bad, allowed)
    with pytest.raises(PersresError, match="There is no folder"):
        photos.from_folder(str(inside / "never"), allowed)
    (inside / "c.png").symlink_to(outside / "b.png")
    with pytest.raises(PersresError, match="c.png is a link out of the allowed folders"):
        photos.from_folder(str(inside), allowed)


def test_folders_that_are_none_are_refused_in_one_sentence(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    odd = ("/loop", "/" + "x" * 300, "/\ud800", "/../" * 3000, "/loop/..", "/loop/x")
    for bad in (*(f"{tmp_path}{name}" for name in odd), "~nobody", "~", "\0", "", " ", 5, [], {}, None, 10**400):
        with pytest.raises(PersresError) as error:
            photos.from_folder(bad, [tmp_path])
        assert len(str(error.value)) <= 300
    photo = tmp_path / "photos" / "a.png"
    photo.parent.mkdir()
    photo.symlink_to(photo)
    with pytest.raises(PersresError, match="contains no images .1 link that leads nowhere"):
        photos.from_folder(str(photo.parent), [tmp_path])


def test_the_curve_has_at_most_200_points_and_each_is_a_mean():
    assert curve([1.0, 3.0]) == [1.0, 3.0]
    assert curve([1.0, 3.0] * 200) == [2.0] * 200
    assert len(curve([0.5] * 100_000)) <= 200 and curve([]) == []
