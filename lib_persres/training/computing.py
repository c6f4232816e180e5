"""How the UNet computes while a residual is learned: frozen, in a precision, by lean layers if they do the same."""

from __future__ import annotations

import contextlib

import torch

from ..errors import first_line
from .finite import check_prediction
from .frozen import checkpointed, frozen, lean, not_in_place, weights_in
from .host import Host
from .texts import Texts

SINGLES = 2**13 * 2**-23
"""1e-3. Some sixty layers with sums of up to ten thousand products come to about 1e-5 on any processor."""
TF32 = 2**4 * 2**-10
"""What a card makes of fp32's products unless it is told not to: numbers of 10 bits."""
HALVES = 0.1


def tolerance(dtype: torch.dtype, device: torch.device) -> float:
    """How far the lean layers' prediction may be from the model's own, as a part of its norm: rounding in weights of
    this dtype, not another computation."""
    if dtype != torch.float32:
        return HALVES
    rounded = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    return TF32 if device.type == "cuda" and rounded else SINGLES


class Computing:
    """A context manager; within it, `with computing.step():` is what a step runs in. All is undone at its end.

    z_t, t: (1, 4, h, w) and (1,), on which the lean layers are compared with the model's own; a corner of z_t is enough
    where they were before, after the model was lent to others.
    notes: what the user should know.
    """

    def __init__(
        self,
        host: Host,
        texts: Texts,
        z_t: torch.Tensor,
        t: torch.Tensor,
        *,
        precision: str | None,
        checkpointing: bool,
        notes: list[str],
    ):
        self._host, self._texts, self._sample = host, texts, (z_t, t)
        self._precision, self._checkpointing, self._notes = precision, checkpointing, notes
        self._lean = self._told = False
        self._exit = contextlib.ExitStack()

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights within it."""
        return getattr(torch, self._precision) if self._precision else next(self._host.unet.parameters()).dtype

    def __enter__(self) -> Computing:
        unet = self._host.unet
        own = next(unet.parameters()).dtype  # what is expected is rounded by it
        with contextlib.ExitStack() as stack:
            stack.enter_context(frozen(unet))
            stack.enter_context(not_in_place(unet))
            expected = self._predict()  # before anything is changed, and so that what a host does lazily is done
            check_prediction(unet, expected)
            stack.enter_context(weights_in(unet, self._precision))
            bound = max(tolerance(each, expected.device) for each in (own, self.dtype))
            self._lean = not self._told and self._enter_lean(stack, expected, bound)
            if self._checkpointing:
                stack.enter_context(checkpointed(unet))
            self._exit = stack.pop_all()
        side = 2 ** len(unet.channel_mult)  # two pixels in the middle: a norm wants more than one
        self._sample = self._sample[0][..., :side, :side], self._sample[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def step(self) -> contextlib.AbstractContextManager[object]:
        device = self._host.device.type
        if self._lean:
            return torch.autocast(device, enabled=False)
        if self._precision is None:
            return contextlib.nullcontext()  # the host's own
        return torch.autocast(device, getattr(torch, self._precision), enabled=self._precision != "float32")

    @torch.no_grad()
    def _predict(self) -> torch.Tensor:
        z_t, t = self._sample
        return self._host.unet(z_t, timesteps=t, **self._texts.conditioning[:1].arguments()).float()

    def _enter_lean(self, stack: contextlib.ExitStack, expected: torch.Tensor, bound: float) -> bool:
        """Whether the lean layers predict what the model's own do; only then are they left in place."""
        with contextlib.ExitStack() as own:
            self._texts.rows = torch.zeros(1, dtype=torch.long, device=expected.device)
            try:
                own.enter_context(lean(self._host.unet))
                own.enter_context(self._texts.fixed_in(self._host.unet))
                with torch.autocast(expected.device.type, enabled=False):
                    error = ((self._predict() - expected).norm() / expected.norm()).item()
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as failure:  # of whatever another extension put into the model
                reason = first_line(failure)
            else:
                if error <= bound:
                    stack.push(own.pop_all())
                    return True
                reason = f"the lean ones are off by {error:.1%}"
            finally:
                self._texts.rows = None
        self._told = True  # it may be entered again, and goes on as it began
        self._notes.append(f"This model trains with its own layers, slower and in more memory: {reason}.")
        return False
