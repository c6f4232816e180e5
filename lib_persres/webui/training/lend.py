"""The WebUI's model, lent for one training: everything that is changed for it is put back, however it ends."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ...errors import PersresError, first_line
from ...prompt import NETWORK
from ..chosen import chosen
from ..host import HOST
from ..options import DEFAULTS, GIVE_WAY
from .memory import in_use
from .model import LentModel, refuse_unsupported
from .turn import Turn


class WebUILoan:
    """The loaded model within `with`, and between `give_way`'s begin and end nobody's.

    host, checkpoint: of the model that was loaded at first.
    """

    host: LentModel
    checkpoint: str

    def __init__(self, title: str, turn: Turn | None):
        self._title, self._turn = f"{NETWORK}: {title}", turn
        self._info: Any = None
        """The WebUI's own of the checkpoint that it is trained on."""
        self._lent = contextlib.ExitStack()

    def __enter__(self) -> WebUILoan:
        self._take()
        return self

    def __exit__(self, *_) -> None:
        self._lent.close()
        if self._turn is None or self._turn.held:
            with contextlib.suppress(Exception):  # the next generation tries it again and says what is wrong
                HOST.choose_model()  # what was chosen meanwhile

    def _take(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(HOST.job(self._title))
            model = _loaded() if self._info is None else _again(self._info)
            refuse_unsupported(model)
            if why := HOST.refuse_to_train():
                raise PersresError(why)
            stack.enter_context(_random_numbers())
            stack.enter_context(HOST.placement(model))
            stack.enter_context(HOST.plain(model))
            stack.enter_context(HOST.autocast())
            if self._info is None or self.host.model is not model:
                self.host = LentModel(model)
            self._info = HOST.checkpoint(model)
            self.checkpoint = self._info.name
            stack.enter_context(self.host.rest())
            handle = self.host.unet.register_forward_pre_hook(self.host.before_unet, with_kwargs=True)
            stack.callback(handle.remove)
            self._lent = stack.pop_all()

    # -- while a training runs

    def progress(self, done: int, total: int, text: str) -> None:
        HOST.progress(self._title, done, total, text)

    def interrupted(self) -> bool:
        HOST.forget_skip()  # there is nothing to skip to
        if HOST.restarting() or self.wanted():
            return False  # Reload UI ends it by `Jobs.close`; who waits for an image means the image
        return HOST.interrupted()

    def wanted(self) -> bool:
        return self._turn is not None and self._turn.wanted()

    def give_way(self, leave: Callable[[], bool]) -> bool:
        interrupts = _Interrupts()
        self._lent.close()
        assert self._turn is not None  # else nobody is waited for

        def meanwhile() -> None:
            interrupts.pass_on()
            HOST.serve()

        if not self._turn.give_way(leave, meanwhile):
            return False
        before = self.host
        self._take()
        return self.host is before

    def memory(self) -> dict | None:
        return in_use(self.host.device)


class _Interrupts:
    """An Interrupt that came while an image waited behind a training: it is the image's, once that has begun."""

    def __init__(self):
        self._pending = HOST.interrupted() and not HOST.restarting()
        self._before = HOST.last_began()

    def pass_on(self) -> None:
        if self._pending and HOST.job_began() not in (None, self._before):
            self._pending = False
            HOST.interrupt()


def turn() -> Turn:
    """The WebUI's own queue: generations and trainings never run at once."""
    return Turn(HOST.queue_lock(), HOST.waiting_tasks, _gives_way)


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
    if HOST.model() is None:
        raise PersresError("No checkpoint is loaded: choose one at the top of the page, then resume.")
    return HOST.choose_model()


def _again(info):
    """The model of a training that goes on, whatever was chosen or drawn with meanwhile; the choice stays."""
    try:
        model = HOST.load_model(info)
    except Exception as error:  # of whatever reads a checkpoint
        raise _gone(info, first_line(error)) from error
    if model is None or HOST.checkpoint(model).filename != info.filename:
        raise _gone(info, "another one is loaded")
    return model


def _gone(info, why: str) -> PersresError:
    return PersresError(
        f"The checkpoint {info.name} of this training could not be loaded again after an image with another one "
        f"({why}): see that it can be loaded, then resume."
    )


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
