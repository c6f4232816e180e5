"""Reload UI, which the WebUI tells everything that runs by an interrupt like any other."""

from __future__ import annotations

from modules import shared

MARK = "persres_restarting"


def watch_restarts() -> None:
    """From now on `restarting` tells a reload from an Interrupt. To be called whenever the scripts are loaded."""
    state = shared.state
    if not hasattr(state, MARK):
        request = state.request_restart

        def noted():
            setattr(state, MARK, True)
            request()

        state.request_restart = noted
    setattr(state, MARK, False)


def restarting() -> bool:
    """Whether a reload was asked for and the scripts were not loaded again since."""
    return getattr(shared.state, MARK, False)
