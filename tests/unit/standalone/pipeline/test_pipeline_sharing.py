"""Residuals act in a pipeline's own calls alone, whatever shares its parts or wraps its methods."""

import copy
import functools
import inspect

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from pipelines import (
    PROMPT,
    draw,
    learned_word,
    of_toybox,
    ours,
    snapshot,
    with_scheduler,
)
from rounding import PICTURE, assert_near

from lib_persres.errors import PersresError
from lib_persres.standalone import pipeline as persres

# -- what else uses the same parts


def test_nothing_acts_in_a_pipeline_that_shares_the_parts_nor_outside_of_a_call(pipe, sd, rex):
    other = StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    base = draw(pipe, sd, "a photo of a olis ball on grass")
    x, context = torch.randn(2, 4, 8, 8), torch.randn(2, 77, pipe.unet.config.cross_attention_dim)
    untouched = pipe.unet(x, 500, encoder_hidden_states=context).sample
    with persres.on(pipe, {"rex": learned_word(rex)}, lag=True):
        assert not torch.equal(draw(pipe, sd, PROMPT), base)
        assert torch.equal(draw(other, sd, "a photo of a olis ball on grass"), base)
        assert torch.equal(pipe.unet(x, 500, encoder_hidden_states=context).sample, untouched)
        assert isinstance(StableDiffusionImg2ImgPipeline.from_pipe(pipe), StableDiffusionImg2ImgPipeline)


def test_a_second_use_of_shared_parts_is_refused_while_the_first_acts(pipe, rex, mia):
    other = StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    text = StableDiffusionPipeline(**{**pipe.components, "unet": of_toybox()}, requires_safety_checker=False)
    with persres.on(pipe, {"rex": rex}):
        pipe.encode_prompt = functools.partial(pipe.encode_prompt)  # a wrapper of the user's hides nothing
        try:
            for again in (pipe, other, text):
                with pytest.raises(PersresError, match="act in this pipeline already"), persres.on(again, {"mia": mia}):
                    pass
        finally:
            del pipe.encode_prompt
    with persres.on(other, {"mia": mia}):
        pass


def test_an_encode_prompt_of_the_users_is_called_and_is_there_afterwards(pipe, sd, rex):
    seen = []

    def own(prompt, *args, **kwargs):
        seen.append(prompt)
        return type(pipe).encode_prompt(pipe, prompt, *args, **kwargs)

    kind = type(pipe)

    def before(prompt, device, num_images_per_prompt, do_classifier_free_guidance, negative_prompt=None, **kwargs):
        seen.append(prompt)
        return kind.encode_prompt(
            pipe, prompt, device, num_images_per_prompt, do_classifier_free_guidance, negative_prompt, **kwargs
        )

    expected = ours(sd, f"<persres:rex>{PROMPT}", {"rex": rex})
    pipe.encode_prompt = before
    try:
        with persres.on(pipe, {"rex": rex}):
            assert_near(draw(pipe, sd, PROMPT), expected, PICTURE)
        assert pipe.encode_prompt is before and seen == ["a photo of a olis ball on grass"]
    finally:
        del pipe.encode_prompt
    with persres.on(pipe, {"rex": rex}):
        pipe.encode_prompt = own
        assert_near(draw(pipe, sd, PROMPT), expected, PICTURE)
    assert pipe.encode_prompt is own
    del pipe.encode_prompt


@pytest.mark.parametrize("looked_up", ["before", "on the class"])
def test_a_wrapper_that_passes_on_whatever_it_gets_is_called_and_hides_nothing(pipe, sd, rex, looked_up):
    before, seen = pipe.encode_prompt, []

    def passes_on(*args, **kwargs):
        seen.append(args[0])
        if looked_up == "before":
            return before(*args, **kwargs)
        return type(pipe).encode_prompt(pipe, *args, **kwargs)

    pipe.encode_prompt = passes_on
    try:
        with persres.on(pipe, {"rex": rex}):
            found = draw(pipe, sd, PROMPT + " <persres:rex:0.5>")
        assert pipe.encode_prompt is passes_on and seen == ["a photo of a olis ball on grass"]
    finally:
        del pipe.encode_prompt
    assert_near(found, ours(sd, f"<persres:rex:0.5>{PROMPT}", {"rex": rex}), PICTURE)


def test_an_encode_prompt_that_the_user_deletes_meanwhile_stays_deleted(pipe, sd, rex):
    pipe.encode_prompt = functools.partial(pipe.encode_prompt)
    with persres.on(pipe, {"rex": rex}):
        del pipe.encode_prompt
        found = draw(pipe, sd, PROMPT)
    assert "encode_prompt" not in vars(pipe)
    assert_near(found, ours(sd, f"<persres:rex>{PROMPT}", {"rex": rex}), PICTURE)


def test_what_a_user_keeps_of_the_pipeline_does_nothing_afterwards(pipe, rex):
    plain = pipe.encode_prompt("a V* ball", "cpu", 1, False)[0]
    with persres.on(pipe, {"rex": learned_word(rex)}):
        kept, found = pipe.encode_prompt, pipe.encode_prompt("a V* ball", "cpu", 1, False)[0]
    assert torch.equal(kept("a V* ball", "cpu", 1, False)[0], plain) and not torch.equal(found, plain)


def test_texts_encoded_by_hand_leave_nothing_behind(pipe, sd, rex):
    x, context = torch.randn(2, 4, 8, 8), torch.randn(2, 77, pipe.unet.config.cross_attention_dim)
    untouched = pipe.unet(x, 500, encoder_hidden_states=context).sample
    with persres.on(pipe, {"rex": rex}):
        found = pipe.encode_prompt(PROMPT, "cpu", 1, False)[0]
        assert torch.equal(pipe.unet(x, 500, encoder_hidden_states=context).sample, untouched)
        draw(pipe, sd, PROMPT)
        assert torch.equal(pipe.unet(x, 500, context).sample, untouched)
    assert torch.equal(found, pipe.encode_prompt("a photo of a olis ball on grass", "cpu", 1, False)[0])


def test_the_context_may_be_given_by_its_place(pipe, sd, rex):
    class ByPlace(StableDiffusionPipeline):
        """One that calls its UNet so."""

        def __call__(self, *args, **kwargs):
            forward = self.unet.forward
            self.unet.forward = lambda x, t, context, **options: forward(x, t, context, **options)
            before = self.unet.register_forward_pre_hook(
                lambda module, args, kwargs: ((*args, kwargs.pop("encoder_hidden_states")), kwargs),
                with_kwargs=True,
                prepend=True,
            )
            try:
                return super().__call__(*args, **kwargs)
            finally:
                before.remove()
                del self.unet.forward

    own = with_scheduler(DDIMScheduler, pipe, ByPlace)
    with persres.on(own, {"rex": rex}):
        found = draw(own, sd, PROMPT)
    assert_near(found, ours(sd, f"<persres:rex>{PROMPT}", {"rex": rex}), PICTURE)


def test_nothing_acts_in_a_copy_of_the_pipeline(pipe, sd, rex):
    base = draw(pipe, sd, "a photo of a olis ball on grass")
    with persres.on(pipe, {"rex": learned_word(rex)}):
        other = copy.copy(pipe)
        assert torch.equal(draw(other, sd, "a photo of a olis ball on grass"), base)


def test_a_call_within_a_call_is_refused(pipe, sd, rex):
    before = snapshot(pipe)

    def within(pipe, step, t, tensors):
        draw(pipe, sd, PROMPT)

    with persres.on(pipe, {"rex": rex}):
        with pytest.raises(PersresError, match="called within a call of its own"):
            draw(pipe, sd, PROMPT, callback_on_step_end=within)
        assert_near(draw(pipe, sd, PROMPT), ours(sd, f"<persres:rex>{PROMPT}", {"rex": rex}), PICTURE)
    assert snapshot(pipe) == before


def test_meanwhile_the_pipeline_is_of_its_class_to_all_who_ask(pipe, rex, tmp_path):
    signature = inspect.signature(pipe.__call__)
    with persres.on(pipe, {"rex": rex}):
        assert isinstance(pipe, StableDiffusionPipeline) and inspect.signature(pipe.__call__) == signature
        assert type(StableDiffusionPipeline.from_pipe(pipe)) is StableDiffusionPipeline
        pipe.save_config(tmp_path)
    assert StableDiffusionPipeline.load_config(tmp_path)["_class_name"] == "StableDiffusionPipeline"


def test_a_unet_that_took_the_others_place_is_told(pipe, sd, rex):
    own = with_scheduler(DDIMScheduler, pipe)
    with persres.on(own, {"rex": rex}), pytest.warns(UserWarning, match="did not call the UNet that it had"):
        own.unet = copy.deepcopy(of_toybox())
        draw(own, sd, PROMPT)


def test_residuals_that_did_not_act_are_told(pipe, sd, rex):
    kind = type(pipe)
    with persres.on(pipe, {"rex": rex}):
        pipe.encode_prompt = functools.partial(kind.encode_prompt, pipe)
        try:
            with pytest.warns(UserWarning, match="The residuals did not act"):
                draw(pipe, sd, PROMPT)
        finally:
            del pipe.encode_prompt
