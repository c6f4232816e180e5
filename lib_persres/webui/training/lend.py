"""The WebUI's model, lent for one training: everything that is changed for it is put back, however it ends."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import numpy as np
import torch
from modules import (
    call_queue,
    devices,
    extra_networks,
    lowvram,
    processing,
    progress,
    sd_hijack,
    sd_models,
    sd_unet,
    shared,
)

from ...errors import PersresError, first_line
from ...prompt import NETWORK
from ..options import DEFAULTS, GIVE_WAY
from ..options_section import chosen
from .memory import in_use
from .model import WebUIHost, refuse_unsupported
from .restart import restarting
from .turn import Turn


class WebUILoan:
    """The loaded model within `with`, and between `give_way`'s begin and end nobody's.

    host, checkpoint: of the model that was loaded at first.
    """

    host: WebUIHost
    checkpoint: str

    def __init__(self, title: str, turn: Turn | None):
        self._title, self._turn = f"{NETWORK}: {title}", turn
        self._info = None
        self._lent = contextlib.ExitStack()

    def __enter__(self) -> WebUILoan:
        self._take()
        return self

    def __exit__(self, *_) -> None:
        self._lent.close()
        if self._turn is None or self._turn.held:
            with contextlib.suppress(Exception):  # the next generation tries it again and says what is wrong
                sd_models.reload_model_weights()  # what was chosen meanwhile

    def _take(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_job(self._title))
            model = _loaded() if self._info is None else _again(self._info)
            refuse_unsupported(model)
            if shared.cmd_opts.lowvram and torch.device(devices.device).type != "cpu":
                raise PersresError(
                    "Training needs the whole UNet on the card at once, which --lowvram forbids: start with --medvram."
                )
            stack.enter_context(_random_numbers())
            stack.enter_context(_placement(model))
            stack.enter_context(_plain(model))
            stack.enter_context(devices.autocast())
            if self._info is None or self.host.model is not model:
                self.host = WebUIHost(model)
            self._info = model.sd_checkpoint_info
            self.checkpoint = self._info.name
            handle = self.host.unet.register_forward_pre_hook(self.host.before_unet, with_kwargs=True)
            stack.callback(handle.remove)
            self._lent = stack.pop_all()

    # -- while a training runs

    def progress(self, done: int, total: int, text: str) -> None:
        state = shared.state
        # a generation that ended clears its job's traces after it has let go of the queue
        state.job, state.job_count = self._title, 1
        state.sampling_step, state.sampling_steps = done, total
        state.textinfo = f"{self._title}: {text}"

    def interrupted(self) -> bool:
        shared.state.skipped = False  # there is nothing to skip to
        if restarting() or self.wanted():
            return False  # Reload UI ends it by `Jobs.close`; who waits for an image means the image
        return shared.state.interrupted or shared.state.stopping_generation

    def wanted(self) -> bool:
        return self._turn is not None and self._turn.wanted()

    def give_way(self, leave: Callable[[], bool]) -> bool:
        interrupts = _Interrupts()
        self._lent.close()
        if not self._turn.give_way(leave, interrupts.pass_on):
            return False
        before = self.host
        self._take()
        return self.host is before

    def memory(self) -> dict | None:
        return in_use(self.host.device)


class _Interrupts:
    """An Interrupt that came while an image waited behind a training: it is the image's, once that has begun."""

    def __init__(self):
        state = shared.state
        self._pending = (state.interrupted or state.stopping_generation) and not restarting()
        self._before = state.time_start

    def pass_on(self) -> None:
        if self._pending and shared.state.time_start != self._before and shared.state.job:
            self._pending = False
            shared.state.interrupt()


def turn() -> Turn:
    """The WebUI's own queue: generations and trainings never run at once."""
    return Turn(call_queue.queue_lock, lambda: progress.pending_tasks, _gives_way)


def _gives_way() -> bool:
    try:
        return chosen(GIVE_WAY)
    except PersresError:
        return DEFAULTS[GIVE_WAY]


def lend(title: str, turn: Turn | None = None) -> WebUILoan:
    """The loaded model for one training. To be called within this turn; None: it never gives way."""
    return WebUILoan(title, turn)


def _loaded():
    """The model that is chosen."""
    if shared.sd_model is None:
        raise PersresError("No checkpoint is loaded: choose one at the top of the page, then resume.")
    return sd_models.reload_model_weights() or shared.sd_model


def _again(info):
    """The model of a training that goes on, whatever was chosen or drawn with meanwhile; the choice stays."""
    try:
        with sd_models.SkipWritingToConfig():
            model = sd_models.reload_model_weights(info=info) or shared.sd_model
    except Exception as error:  # of whatever reads a checkpoint
        raise _gone(info, first_line(error)) from error
    if model is None or model.sd_checkpoint_info.filename != info.filename:
        raise _gone(info, "another one is loaded")
    return model


def _gone(info, why: str) -> PersresError:
    return PersresError(
        f"The checkpoint {info.name} of this training could not be loaded again after an image with another one "
        f"({why}): see that it can be loaded, then resume."
    )


@contextlib.contextmanager
def _job(title: str):
    """The job that the WebUI's progress shows and its Interrupt ends."""
    state = shared.state
    state.begin(job=title)
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
