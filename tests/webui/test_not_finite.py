"""Pictures whose numbers are not finite: said, with the likely reason, instead of black without a word."""

import contextlib

import pytest
from checkout import NEO
from pictures import HIRES, LAG, REX, refused, script, told


@contextlib.contextmanager
def spoiled(host, part):
    host.image(f"{REX} before {part}")  # else what a LoRA of before changed is put back over it
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


@pytest.mark.parametrize("part, words", [("unet", "The base model alone"), ("text", "The text encoder gives")])
def test_a_checkpoint_that_is_not_finite_is_named(host, part, words):
    with spoiled(host, part):
        # another prompt than before, since the WebUI keeps conds
        status, detail = refused(host, asked(REX + f" {part}", LAG))
        assert status == 500 and detail.startswith(words) and "strength" not in detail
    assert told(host.generate(REX, LAG)) == []


@pytest.mark.skipif(NEO, reason="This host makes black what its autoencoder gives, before others see it.")
def test_a_vae_that_is_not_finite_is_named(host):
    with spoiled(host, "vae"), no_nan_check(host):
        for more in ({}, HIRES):
            (sentence,) = told(host.generate(REX, LAG, **more))
            assert sentence.startswith("The VAE gives numbers that are not finite")
