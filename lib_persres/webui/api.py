"""GET /persres/v1/residuals and POST /persres/v1/refresh, behind the same passwords as the WebUI's own routes."""

from __future__ import annotations

from dataclasses import asdict
from secrets import compare_digest

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from modules import shared

from ..errors import PersresError
from .files import Entry, Shelf


def authorize(credentials: HTTPBasicCredentials = Depends(HTTPBasic())) -> None:  # noqa: B008 FastAPI's way
    """The WebUI guards its own routes alone, so ours ask for --api-auth themselves."""
    given = f"{credentials.username}:{credentials.password}".encode()
    known = [pair.strip().encode() for pair in shared.cmd_opts.api_auth.split(",")]
    if not any([compare_digest(given, pair) for pair in known]):
        raise HTTPException(401, "Incorrect username or password", {"WWW-Authenticate": "Basic"})


def add_routes(app: FastAPI, shelf: Shelf) -> None:
    guarded = [Depends(authorize)] if shared.cmd_opts.api_auth else []

    @app.get("/persres/v1/residuals", dependencies=guarded)
    def residuals():
        return [describe(shelf, entry) for entry in shelf.refresh()]

    @app.post("/persres/v1/refresh", dependencies=guarded)
    def refresh():
        return {"residuals": len(shelf.refresh())}


def describe(shelf: Shelf, entry: Entry) -> dict:
    """metadata is null where the file cannot be read; the preview stays in the file."""
    try:
        digest = shelf.hash(entry)
    except PersresError:
        digest = None
    metadata = asdict(entry.metadata) if entry.metadata else None
    if metadata:
        metadata.pop("preview")
    return {"name": entry.name, "hash": digest, "metadata": metadata}
