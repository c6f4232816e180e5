"""The host: the WebUI as far as this extension needs it. Beside the entry points, nothing else imports it.

It is one of the classes in `hosts`, by the modules that are there; nothing else knows which one it is. What every model
of the line has (its UNet's call) is used where it is needed.
"""

from __future__ import annotations

from importlib.util import find_spec


def _host():
    if find_spec("modules_forge") is None:
        from .hosts.a1111 import A1111

        return A1111()
    if find_spec("ldm_patched") is not None:
        from .hosts.ldm_patched import LdmPatched

        return LdmPatched()
    from .hosts.backend import Backend

    return Backend()


HOST = _host()
