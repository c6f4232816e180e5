"""The WebUI's model, lent for one training: everything that is changed for it is put back, however it ends."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from modules import call_queue, devices, extra_networks, lowvram, processing, sd_hijack, sd_models, sd_unet, shared

from ...errors import PersresError
from ...prompt import NETWORK
from .host import WebUIHost, refuse_unsupported
from .memory import in_use


class WebUILoan:
    def __init__(self, host: WebUIHost):
        self.host = host
        self.checkpoint = host.model.sd_checkpoint_info.name

    def progress(self, done: int, total: int, text: str) -> None:
        state = shared.state
        state.sampling_step, state.sampling_steps = done, total
        state.textinfo = f"{state.job}: {text}"

    def interrupted(self) -> bool:
        shared.state.skipped = False  # there is nothing to skip to
        return shared.state.interrupted or shared.state.stopping_generation

    def memory(self) -> dict | None:
        return in_use(self.host.device)


def turn():
    """The WebUI's own queue: generations and trainings never run at once."""
    return call_queue.queue_lock


@contextlib.contextmanager
def lend(title: str) -> Iterator[WebUILoan]:
    """The loaded model for one training. To be called within `turn`."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_job(title))
        if shared.sd_model is None:
            raise PersresError("No checkpoint is loaded: choose one at the top of the page, then resume.")
        model = sd_models.reload_model_weights() or shared.sd_model
        refuse_unsupported(model)
        if shared.cmd_opts.lowvram and torch.device(devices.device).type != "cpu":
            raise PersresError(
                "Training needs the whole UNet on the card at once, which --lowvram forbids: start with --medvram."
            )
        stack.enter_context(_random_numbers())
        stack.enter_context(_placement(model))
        stack.enter_context(_plain(model))
        stack.enter_context(devices.autocast())
        host = WebUIHost(model)
        handle = host.unet.register_forward_pre_hook(host.before_unet, with_kwargs=True)
        stack.callback(handle.remove)
        yield WebUILoan(host)


@contextlib.contextmanager
def _job(title: str):
    """The job that the WebUI's progress shows and its Interrupt ends."""
    state = shared.state
    state.begin(job=f"{NETWORK}: {title}")
    state.job_count = 1
    try:
        yield
    finally:
        state.skipped = state.interrupted = state.stopping_generation = False
        state.textinfo = None
        state.end()


@contextlib.contextmanager
def _random_numbers():
    cuda = torch.cuda.is_available()
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cards = torch.cuda.get_rng_state_all() if cuda else None
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
        if cuda:
            torch.cuda.set_rng_state_all(cards)


@contextlib.contextmanager
def _placement(model):
    """Under --medvram modules come and go; at its end none is on the card, which the WebUI takes as its start."""
    try:
        yield
    finally:
        if model.lowvram:
            lowvram.send_everything_to_cpu()
        devices.torch_gc()


@contextlib.contextmanager
def _plain(model):
    """The model itself: without what an earlier generation or a setting left on it."""
    hijack = sd_hijack.model_hijack
    comments, params, circular = hijack.comments, hijack.extra_generation_params, hijack.circular_enabled
    unet = sd_unet.current_unet_option
    tiles = [
        params_
        for module in model.modules()
        if (params_ := getattr(module, "__webui_hypertile_params", None)) is not None
    ]
    enabled = [params_.enabled for params_ in tiles]
    try:
        hijack.comments, hijack.extra_generation_params = [], {}
        hijack.apply_circular(False)
        sd_unet.apply_unet("None")
        for params_ in tiles:
            params_.enabled = False
        with devices.autocast():
            # each generation activates its own again
            extra_networks.activate(processing.StableDiffusionProcessingTxt2Img(), {})
        yield
    finally:
        for params_, value in zip(tiles, enabled):
            params_.enabled = value
        hijack.apply_circular(circular)
        hijack.comments, hijack.extra_generation_params = comments, params
        if unet is not None:
            sd_unet.apply_unet(unet.label)
