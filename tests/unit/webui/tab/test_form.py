"""The training tab's form without its page: what is typed becomes a request, and a file's settings come back."""

import pytest
from training_form_values import EMPTY, metadata

from lib_persres.errors import PersresError
from lib_persres.metadata import Metadata
from lib_persres.training.estimate import bytes_text, estimate
from lib_persres.training.options import TARGETS
from lib_persres.training.recipes import RECIPES
from lib_persres.webui.recipes import choices, name_in, shown_as, weak_rank
from lib_persres.webui.tab import form
from lib_persres.webui.training.pace import in_words
from lib_persres.webui.training.request import Request

# -- fields


def test_name_class_and_images_are_enough():
    read = form.read(EMPTY)
    assert read["concept"] == "rex" and read["recipe"] == "" and read["shrink"] is True
    unset = ("steps", "batch", "learning_rate", "rank", "crops", "flips", "template", "resolution", "micro_batch")
    unset += ("targets",)
    assert read["precision"] == "" and read["checkpointing"] is False
    assert [read[name] for name in unset] == [None] * len(unset)
    assert read["seed"] == read["preview_every"] == 0


def test_what_is_typed_is_read():
    typed = {"steps": "20", "batch": 2.0, "learning_rate": "1e-2", "rank": "8", "flips": "yes", "seed": "7"}
    read = form.read({**EMPTY, **typed, "recipe": "paper", "template": "a {identifier} {macro_class}"})
    assert (read["steps"], read["batch"], read["learning_rate"], read["rank"]) == (20, 2, 0.01, "8")
    assert (read["flips"], read["seed"], read["recipe"]) == (True, 7, "paper")
    assert read["template"] == "a {identifier} {macro_class}"
    assert form.read({**EMPTY, "learning_rate": "0,5"})["learning_rate"] == 0.5
    read = form.read({**EMPTY, "targets": "proj_out", "precision": "bfloat16", "checkpointing": True})
    request = Request(**read)
    assert (request.targets, request.precision, request.checkpointing) == ("proj_out", "bfloat16", True)


def test_every_list_offers_what_the_request_takes_and_an_older_presets_value_is_refused_by_name():
    for name, known in form.CHOICES.items():
        for shown in known:
            Request(**form.read({**EMPTY, name: shown}))
        with pytest.raises(PersresError, match="gone"):
            Request(**form.read({**EMPTY, name: "gone"}))
    assert set(form.CHOICES["targets"]) == {form.AS_RECIPE, *TARGETS}


@pytest.mark.parametrize(
    "values, said",
    [
        ({"steps": "many"}, 'Steps must be a whole number, not "many"'),
        ({"batch": "2.5"}, "Batch must be a whole number"),
        ({"learning_rate": "fast"}, "Learning rate must be a number such as 0.001"),
        ({"seed": "x"}, "Seed must be a whole number"),
        ({"concept": " "}, "A name is missing: name it, as rex."),
        ({"macro_class": ""}, 'A class is missing: say what kind of thing it is, as "dog".'),
        ({"concept": "", "macro_class": " "}, "A name and a class are missing: name it, as rex; say what kind"),
    ],
)
def test_what_is_no_value_is_named(values, said):
    with pytest.raises(PersresError, match=said):
        form.read({**EMPTY, **values})


def test_the_recipe_follows_the_loaded_model_until_one_is_chosen():
    assert form.recipe_of(form.AUTOMATIC, True).name == "toybox" and form.recipe_of("", False).name == "paper"
    assert form.recipe_of("paper", True).name == "paper"
    said = form.about(form.AUTOMATIC, RECIPES["toybox"])
    assert RECIPES["toybox"].about in said and "now toybox" in said[0]
    shown = form.placeholders(RECIPES["paper"], 512)
    assert set(shown) == {field.name for field in form.FIELDS}
    assert (shown["steps"], shown["learning_rate"], shown["resolution"]) == ("150", "0.001", "512")


@pytest.mark.parametrize("name", list(RECIPES))
def test_what_a_recipe_is_good_at_and_takes_is_said_of_the_loaded_model(sd, name):
    recipe, told = RECIPES[name], estimate(RECIPES[name], sd.unet)
    said = form.about(name, recipe, sd.unet)
    assert said[0] == recipe.about and form.about(name, recipe)[:2] == said[:2]
    assert f"a file of {bytes_text(told.file)}." in said[3] and f"{bytes_text(told.memory)} of memory" in said[3]
    assert said[1].count(" steps)") == len(recipe.stages)
    assert ("its own, which takes a while" in said[-1]) == recipe.keeps_class
    assert len(form.about(name, recipe)) == len(said) - 2


def test_stages_and_time_are_said_in_words(sd):
    def about(name, trainings=()):
        return form.about(name, RECIPES[name], sd.unet, 64, trainings)

    said = about("attndreambooth")
    assert said[1] == (
        "3 stages: the word V* itself (60 steps), then cross-attention (100 steps), then the whole UNet (500 steps), "
        "as whole matrices."
    )
    assert said[2].endswith(
        "is measured in its first steps, and shown from then on; it is 8.8 times the work of the recipe paper."
    )
    assert about("paper")[2].endswith("from then on.")
    assert about("ti+db")[1].startswith("One stage: the word V* itself and the whole UNet (660")

    # the last training on such a UNet counts: 600 rows of 2 s, at twice the side four times as long
    size = sum(weight.numel() for weight in sd.unet.parameters())
    pace = {"row_seconds": 2.0, "side": 64, "unet": size}
    trainings = [
        {"id": "3", "pace": {**pace, "unet": size + 1}},
        {"id": "2", "pace": pace},
        {"id": "1", "pace": {**pace, "row_seconds": 9.0}},
        *({"id": "4", "pace": bad} for bad in (None, [], {}, {**pace, "side": 0}, {**pace, "row_seconds": "2"})),
    ]
    assert about("paper", trainings)[2].startswith("Lasts about 20 minutes here, by the last training")
    assert about("attndreambooth", trainings)[2].startswith("Lasts about 2.9 hours here")
    assert "about 80 minutes" in form.about("paper", RECIPES["paper"], sd.unet, 128, trainings)[2]
    said = ["about 10 seconds", "about 40 seconds", "about 2 minutes"]
    assert [in_words(seconds) for seconds in (1, 44, 100)] == said


def test_all_that_is_missing_is_named_at_once():
    nothing = {"concept": "", "macro_class": None}
    assert form.missing(nothing, 0).startswith("Photos, a name and a class are missing: drop a few photos")
    assert form.missing({**nothing, "concept": "rex"}, 0).startswith("Photos and a class are missing: ")
    assert form.missing(EMPTY, 0) == "Photos are missing: drop a few photos of the thing."
    assert form.missing(EMPTY, 3) == ""


def test_recipes_stand_in_groups_and_are_read_by_their_names():
    shown = choices(form.AUTOMATIC)
    assert [name_in(each) for each in shown[:4]] == [form.AUTOMATIC, "paper", "word-first", "toybox"]
    assert {name_in(each) for each in shown} == {form.AUTOMATIC, *RECIPES}
    assert shown[1] == "paper (recommended)" and shown[3] == "toybox (for the Toybox alone)"
    assert shown_as("lora") == "lora (comparison)" and name_in("lora") == "lora" and name_in(None) == ""
    assert all(name_in(shown_as(name)) == name for name in RECIPES)


def test_a_rank_that_can_learn_almost_nothing_is_warned_of(sd):
    narrow = weak_rank(RECIPES["paper"], sd.unet)
    assert "comes out at 2 in the narrowest layers" in narrow and "Set Rank to 8" in narrow
    assert weak_rank(RECIPES["paper"].changed(rank="8"), sd.unet) == ""
    for name in ("textual-inversion", "dreambooth", "oft", "toybox", "lora"):
        assert weak_rank(RECIPES[name], sd.unet) == "", name
    assert weak_rank(RECIPES["paper"], None) == ""


def test_previews_are_drawn_unless_they_are_refused():
    assert form.request_of({**EMPTY, "recipe": "paper"}, False).preview_every == 50
    assert form.request_of(EMPTY, True).preview_every == 100  # the Toybox's recipe
    assert form.request_of({**EMPTY, "steps": "1"}, False).preview_every == 1
    assert form.request_of({**EMPTY, "preview_every": "0"}, False).preview_every == 0
    assert form.request_of({**EMPTY, "preview_every": "7"}, False).preview_every == 7


def test_inputs_that_a_recipe_of_several_stages_has_of_its_own_are_fixed():
    assert form.fixed(RECIPES["paper"]) == ()
    assert set(form.fixed(RECIPES["attn-residual"])) == {"steps", "batch", "learning_rate", "targets"}
    empty = {**EMPTY, **{name: form.unset(name) for name in form.fixed(RECIPES["attn-residual"])}}
    assert Request(**form.read({**empty, "recipe": "attn-residual"})).steps is None
    for name, value in {"steps": "3", "batch": "2", "learning_rate": "0.1", "targets": "kv"}.items():
        with pytest.raises(PersresError, match=f"attn-residual has 3 stages .* leave out {name}"):
            Request(**form.read({**EMPTY, "recipe": "attn-residual", name: value}))


# -- settings of a trained residual


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_residuals_settings_train_the_same_recipe_again(name):
    own = {"steps": 33, "learning_rate": 1.25e-4} if not form.fixed(RECIPES[name]) else {}
    recipe = RECIPES[name].changed(**own, rank="4", crops=1, flips=True, resolution=64)
    shown = form.from_file(metadata(recipe, seed=5))
    assert shown["recipe"] == name and shown["concept"] == "rex"
    request = Request(**form.read({**EMPTY, **shown}))
    assert request.recipe_for(name).changed(resolution=request.resolution) == recipe and request.seed == 5


def test_what_the_tab_cannot_set_is_told():
    for recipe in (RECIPES["paper"].changed(t_power=2.0).to_dict(), {}):
        with pytest.raises(PersresError, match="cannot be set here|names no recipe"):
            form.from_file(Metadata(concept="rex", identifier="olis", macro_class="dog", recipe=recipe))
