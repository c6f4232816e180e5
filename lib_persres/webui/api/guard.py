"""Puts the checks of `refusal` before the WebUI's own API routes, behind their passwords.

A dependency of the route sees the body that FastAPI has read anyway, and no other route pays for it.
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.dependencies.utils import get_parameterless_sub_dependant

from ...errors import PersresError
from ..host import HOST
from ..settings import TITLE
from .refusal import check_generation, check_options

CHECKS = {
    "/sdapi/v1/txt2img": check_generation,
    "/sdapi/v1/img2img": check_generation,
    "/sdapi/v1/options": check_options,
}


def guard(app: FastAPI) -> None:
    """For an app whose routes are there already; without --api it has none of these."""
    for route in app.routes:
        check = CHECKS.get(getattr(route, "path", ""))
        if check is None or "POST" not in route.methods:
            continue
        # last, so that who may not ask is told that first
        route.dependant.dependencies.append(
            get_parameterless_sub_dependant(depends=Depends(_dependency(check)), path=route.path_format)
        )
        HOST.forget_defaults(getattr(route.endpoint, "__self__", None), TITLE)


def _dependency(check: Callable[[object], None]):
    async def refuse(request: Request) -> None:
        try:
            body = await request.json()
        except ValueError:
            return  # no JSON: FastAPI refuses it itself
        try:
            check(body)
        except PersresError as error:
            raise HTTPException(422, str(error)) from error

    return refuse
