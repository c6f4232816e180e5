"""What a request's body says of the script; no WebUI is needed for it."""

import pytest

from lib_persres.errors import PersresError
from lib_persres.webui.api.refusal import Refused, check_generation, check_options

TITLE = "Personalized Residuals"


def body(entry, name=TITLE):
    return {"prompt": "a dog", "alwayson_scripts": {"ControlNet": {"args": 3}, name: entry}}


@pytest.mark.parametrize(
    "good",
    [
        None,
        {},
        {"prompt": "a dog", "alwayson_scripts": {}},
        {"prompt": "a \ud800 dog", "negative_prompt": 3},
        {"prompt": "a 🐕 <persres:é>", "negative_prompt": None},
        {"alwayson_scripts": None},
        {"alwayson_scripts": {"ControlNet": {}, "Seed": 3}},
        {"override_settings": {"persres_lag": "never", "CLIP_stop_at_last_layers": -1}},
        body({"args": []}),
        body({"args": [None]}),
        body({"args": [{"lag": True}]}, TITLE.upper()),
    ],
)
def test_what_is_understood_or_not_ours_passes(good):
    check_generation(good)


@pytest.mark.parametrize(
    "bad, words",
    [
        (body({}), 'has no "args"'),
        (body({"args": {"lag": True}}), '"args" of Personalized Residuals is an object; it must be a list'),
        (body({"args": None}), "is null"),
        (body({"args": "on"}), "is a text"),
        (body({"args": [], "lag": True}), 'has lag; only "args" may be there'),
        (body([{"lag": True}]), "in alwayson_scripts is a list"),
        (body({"args": [False] * 7}), "takes 6 values"),
        (body({"args": [{}, True]}), "not both"),
        (body({"args": [{"laag": True}]}), "does not know laag"),
        (body({"args": []}, "persres"), 'the script is called "Personalized Residuals"'),
        (body({"args": []}, "PersonalizedResiduals"), "the script is called"),
        (body({"args": []}, TITLE + " "), "the script is called"),
        (
            {"alwayson_scripts": {TITLE: {"args": []}, TITLE.lower(): {"args": [True]}}},
            "2 times, as Personalized Residuals, personalized residuals",
        ),
        ({"override_settings": {"persres_lag": "x"}}, "persres_lag is 'x'"),
        ({"override_settings": {"persres_cache": 10**400}}, "persres_cache is a number of more than 60 digits"),
        (body({"args": [{"strength": 10**400}]}), "strength is a number of more than 60 digits"),
        (body({"args": [{"enabled": None, "lag": 1}]}), "lag is '1'"),
        ({"prompt": "a \ud800 <persres:rex>"}, "prompt has half a character .a lone surrogate. at place 3"),
        ({"prompt": "<persres:\udfff>"}, "prompt has half a character"),
        ({"prompt": "<persres:a>", "hr_prompt": "\ud800"}, "hr_prompt has half a character"),
    ],
)
def test_what_would_be_dropped_is_refused(bad, words):
    with pytest.raises(PersresError, match=words):
        check_generation(bad)


def test_options():
    check_options({"persres_cache": 3, "sd_vae": "x"})
    check_options(["no table"])
    with pytest.raises(PersresError, match="persres_cache"):
        check_options({"persres_cache": -3})


def test_a_refusal_has_what_the_webui_makes_an_answer_of():
    assert vars(Refused("no.")) == {"status_code": 422, "detail": "no."} and str(Refused("no.")) == "no."
