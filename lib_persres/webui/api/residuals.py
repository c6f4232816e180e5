"""GET /persres/v1/residuals and POST /persres/v1/refresh, behind the same passwords as the WebUI's own routes."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from secrets import compare_digest

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from ...errors import PersresError
from ...residual_folder import Entry, ResidualFolder
from ..host import HOST


def guards() -> list:
    """The dependencies of our routes, since the WebUI guards none but its own.

    They want the password of --api-auth; without it that of --gradio-auth, if the page has one. The page's cookie does
    not do, since a page of another site could use it; our own page does not ask by these routes.
    """
    known = [pair.encode() for pair in HOST.passwords()]

    def authorize(credentials: HTTPBasicCredentials = Depends(HTTPBasic())) -> None:  # noqa: B008 FastAPI's way
        given = f"{credentials.username}:{credentials.password}".encode()
        if not any([compare_digest(given, pair) for pair in known]):
            raise HTTPException(401, "Incorrect username or password", {"WWW-Authenticate": "Basic"})

    return [Depends(authorize)] if known else []


def add_routes(app: FastAPI, residuals: ResidualFolder) -> None:
    guarded = guards()

    @app.get("/persres/v1/residuals", dependencies=guarded)
    def listed():
        return [describe(residuals, entry) for entry in residuals.refresh()]

    @app.post("/persres/v1/refresh", dependencies=guarded)
    def refresh():
        return {"residuals": len(residuals.refresh())}


def describe(residuals: ResidualFolder, entry: Entry) -> dict:
    """hash and metadata are null where the file cannot be read; the preview stays in the file."""
    metadata = digest = None
    if entry.metadata:
        metadata = asdict(entry.metadata)
        metadata.pop("preview")
        with contextlib.suppress(PersresError):  # it vanished, or may not be read
            digest = residuals.hash(entry)
    return {"name": entry.name, "hash": digest, "metadata": metadata}
