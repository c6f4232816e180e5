"""Pictures whose numbers are not finite: said, with the likely reason, instead of black without a word."""

import contextlib

import numpy as np
import pytest
from test_api import refused, script
from test_generation import LAG, REX, same
from test_sentences import HIRES, told

STRONG = REX.replace("rex", "rex:1e30")


@contextlib.contextmanager
def spoiled(host, part):
    host.post(f"/probe/spoil/{part}")
    try:
        yield
    finally:
        host.post("/probe/restore")


@contextlib.contextmanager
def no_nan_check(host):
    """As with --disable-nan-check."""
    host.post("/probe/nan-check/0")
    try:
        yield
    finally:
        host.post("/probe/nan-check/1")


def asked(prompt, args, **more) -> dict:
    return {**script({"args": args}), "prompt": prompt, **more}


@pytest.mark.parametrize("more", [{}, HIRES, {"batch_size": 2}])
@pytest.mark.parametrize("args", [[False], LAG])
def test_a_strength_that_overflows_is_named(host, reference, args, more):
    status, detail = refused(host, asked(STRONG, args, **more))
    assert status == 422 and detail.endswith("<persres:rex:1e30> acts at strength 1e+30; lower its strength.")
    assert host.get("/probe/hooks") == [] and same(host.image("a photo of a dog"), reference["plain"][0])


def test_the_second_image_of_a_batch_is_looked_at_too(host):
    status, detail = refused(host, asked(f"{REX}||{STRONG}", LAG, batch_size=2))
    assert status == 422 and "<persres:rex:1e30> acts at strength 1e+30" in detail


def test_without_the_webuis_own_check_the_picture_is_black_and_says_why(host):
    with no_nan_check(host):
        result = host.generate(STRONG, LAG)
        (sentence,) = told(result)
        assert "<persres:rex:1e30> acts at strength 1e+30" in sentence and np.ptp(result.images[0]) == 0
        assert told(host.generate(REX, LAG)) == []


@pytest.mark.parametrize("part, words", [("unet", "The base model alone"), ("text", "The text encoder gives")])
def test_a_checkpoint_that_is_not_finite_is_named(host, part, words):
    with spoiled(host, part):
        # another prompt than before, since the WebUI keeps conds
        status, detail = refused(host, asked(REX + f" {part}", LAG))
        assert status == 500 and detail.startswith(words) and "strength" not in detail
    assert told(host.generate(REX, LAG)) == []


def test_a_vae_that_is_not_finite_is_named(host):
    with spoiled(host, "vae"), no_nan_check(host):
        for more in ({}, HIRES):
            (sentence,) = told(host.generate(REX, LAG, **more))
            assert sentence.startswith("The VAE gives numbers that are not finite")
