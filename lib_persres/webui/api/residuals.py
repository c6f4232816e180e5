"""GET /persres/v1/residuals and POST /persres/v1/refresh, behind the same passwords as the WebUI's own routes."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from secrets import compare_digest

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from modules import initialize_util, shared

from ...errors import PersresError
from ..files import Entry, Shelf


def guards() -> list:
    """The dependencies of our routes, since the WebUI guards none but its own.

    They want the password of --api-auth; without it that of --gradio-auth, if the page has one. The page's cookie does
    not do, since a page of another site could use it; our own page does not ask by these routes.
    """
    pairs = [pair.strip() for pair in (shared.cmd_opts.api_auth or "").split(",") if pair.strip()]
    known = [pair.encode() for pair in pairs or map(":".join, initialize_util.get_gradio_auth_creds())]

    def authorize(credentials: HTTPBasicCredentials = Depends(HTTPBasic())) -> None:  # noqa: B008 FastAPI's way
        given = f"{credentials.username}:{credentials.password}".encode()
        if not any([compare_digest(given, pair) for pair in known]):
            raise HTTPException(401, "Incorrect username or password", {"WWW-Authenticate": "Basic"})

    return [Depends(authorize)] if known else []


def add_routes(app: FastAPI, shelf: Shelf) -> None:
    guarded = guards()

    @app.get("/persres/v1/residuals", dependencies=guarded)
    def residuals():
        return [describe(shelf, entry) for entry in shelf.refresh()]

    @app.post("/persres/v1/refresh", dependencies=guarded)
    def refresh():
        return {"residuals": len(shelf.refresh())}


def describe(shelf: Shelf, entry: Entry) -> dict:
    """hash and metadata are null where the file cannot be read; the preview stays in the file."""
    metadata = digest = None
    if entry.metadata:
        metadata = asdict(entry.metadata)
        metadata.pop("preview")
        with contextlib.suppress(PersresError):  # it vanished, or may not be read
            digest = shelf.hash(entry)
    return {"name": entry.name, "hash": digest, "metadata": metadata}
