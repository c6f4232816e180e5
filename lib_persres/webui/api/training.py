"""/persres/v1/train…: trainings for programs, behind the same passwords as the WebUI's own routes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from fastapi import FastAPI, HTTPException
from fastapi import Request as HttpRequest
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse

from ...errors import PersresError
from ..training import photos
from ..training.jobs import Jobs
from ..training.request import Request
from .residuals import guards

MOST_BODY = photos.MOST_TOGETHER * 4 // 3 + (1 << 20)
ROUTE = "/persres/v1/train"


def add_training_routes(app: FastAPI, jobs: Jobs, allowed: Callable[[], Iterable[Path]]) -> None:
    """allowed: the folders whose folders of photos a request may name."""
    guarded = guards()

    def told(do: Callable, *args):
        try:
            return do(*args)
        except PersresError as error:
            raise HTTPException(404 if str(error).startswith("There is no training ") else 422, str(error)) from error

    def submit(body) -> dict:
        if not isinstance(body, dict):
            raise PersresError("The body must be an object with images or folder, concept and macro_class.")
        body = dict(body)
        images, folder = body.pop("images", None), body.pop("folder", None)
        others, others_folder = body.pop("class_images", None), body.pop("class_folder", None)
        if (images is None) == (folder is None):
            raise PersresError("Give the photos either as images, a list in base64, or as folder, a path.")
        if others is not None and others_folder is not None:
            raise PersresError("Give the class's pictures either as class_images or as class_folder, not as both.")
        request = Request.from_dict(body)
        given, notes = (photos.from_base64(images), []) if folder is None else photos.from_folder(folder, allowed())
        of_class = []
        if others is not None:
            of_class = photos.from_base64(others, of_class=True)
        elif others_folder is not None:
            of_class, more = photos.from_folder(others_folder, allowed(), of_class=True)
            notes = notes + more
        return {"id": jobs.submit(request, given, of_class, notes)}

    @app.post(ROUTE, dependencies=guarded)
    async def train(request: HttpRequest):
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            # a page of another site may send other types unasked
            raise HTTPException(415, "A training's request must be of the type application/json.")
        try:
            length = int(request.headers.get("content-length", ""))
        except ValueError:
            raise HTTPException(411, "A training's request must say its length.") from None
        if length > MOST_BODY:
            raise HTTPException(413, f"A training's request may have {MOST_BODY >> 20} MiB, not {length >> 20}.")
        try:
            body = await request.json()
        except (ValueError, RecursionError) as error:
            raise HTTPException(422, "The body is not JSON.") from error
        return await run_in_threadpool(told, submit, body)

    @app.get(ROUTE, dependencies=guarded)
    def trainings():
        return jobs.list()

    @app.get(ROUTE + "/{identity}", dependencies=guarded)
    def training(identity: str):
        return told(jobs.get, identity)

    @app.get(ROUTE + "/{identity}/preview/{step}/{which}", dependencies=guarded)
    def preview(identity: str, step: int, which: str):
        for entry in told(jobs.get, identity)["preview"]:
            if entry["step"] == step and which in ("plain", "lag") and os.path.isfile(entry[which]):
                return FileResponse(entry[which], media_type="image/png")
        raise HTTPException(404, f"The training has no preview {which[:20]!r} of step {step}.")

    @app.post(ROUTE + "/{identity}/move/{places}", dependencies=guarded)
    def move(identity: str, places: int):
        told(jobs.move, identity, places)
        return jobs.list()

    @app.delete(ROUTE + "/{identity}", dependencies=guarded)
    def remove(identity: str):
        told(jobs.remove, identity)
        return {}

    actions = {
        "stop": jobs.stop,
        "cancel": jobs.cancel,
        "save": jobs.save_now,
        "sample": jobs.sample_now,
        "resume": jobs.resume,
    }

    @app.post(ROUTE + "/{identity}/{action}", dependencies=guarded)
    def act(identity: str, action: str):
        if action not in actions:
            raise HTTPException(404, f"A training has no {action[:20]!r}; it has {', '.join(actions)}.")
        told(actions[action], identity)
        return told(jobs.get, identity)
