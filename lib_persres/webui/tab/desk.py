"""What the tab's page asks while a training runs, and the answers: JSON in, JSON out.

The page asks through an event of gradio's and not through the API: so the page's own login (--gradio-auth) guards it,
it needs no password of the API's in the browser, and it works without --api.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import PersresError
from ...residual_folder import ResidualFolder
from ..training.store import write_whole
from .form import tag_prompt

ACTIONS = {
    "stop": "stop",
    "cancel": "cancel",
    "save": "save_now",
    "sample": "sample_now",
    "resume": "resume",
    "remove": "remove",
}
"""What a button is called -> the method of Jobs."""


class Desk:
    """jobs: the queue (`training.jobs.Jobs`). residuals: whose files the trainings write. export: writes a file as a
    LoRA, and says so; see `exporting`."""

    def __init__(self, jobs, residuals: ResidualFolder, export: Callable[[Path], str]):
        self._jobs, self._residuals, self._export_file = jobs, residuals, export

    def answer(self, question: str) -> str:
        """{"do", "id"} -> {"jobs": [...], "error": a sentence or "", "done": what was done, or ""}; without "do" it
        only looks. "move" has "places", too, and "picture", which makes a preview the card's picture, "step" and
        "which".
        """
        answer: dict[str, Any] = {"error": "", "done": ""}
        try:
            answer["done"] = self._act(question)
        except PersresError as error:
            answer["error"] = str(error)
        except Exception as error:
            traceback.print_exc()
            answer["error"] = f"That failed: {error!r}."
        try:
            answer["jobs"] = [self._for_page(status) for status in self._jobs.list()]
        except Exception as error:  # an answer without "jobs" leaves what the page shows
            traceback.print_exc()
            answer["error"] = answer["error"] or f"The trainings cannot be listed: {error!r}."
        return json.dumps(answer)

    def _act(self, question: str) -> str:
        try:
            asked = json.loads(question or "{}")
            what, job = asked.get("do"), asked.get("id")
        except (ValueError, AttributeError, RecursionError) as error:
            raise PersresError("The page sent what is no question: reload it.") from error
        if what is None:
            return ""
        if not isinstance(what, str) or not isinstance(job, str):
            raise PersresError("The page sent what is no question: reload it.")
        if what == "move" and isinstance(asked.get("places"), int):
            self._jobs.move(job, asked["places"])
        elif what == "picture":
            self._choose_picture(job, asked.get("step"), asked.get("which"))
        elif what == "export":
            return self._export(job)
        elif what in ACTIONS:
            getattr(self._jobs, ACTIONS[what])(job)
        else:
            raise PersresError(f"The page asked for {what[:40]!r}, which is not known here: reload it.")
        return ""

    def _export(self, identity: str) -> str:
        status = self._jobs.get(identity)
        if not status["file"]:
            raise PersresError(f'"{status["concept"]}" has no file yet: press Save now.')
        return self._export_file(Path(status["file"]))

    def _choose_picture(self, identity: str, step, which) -> None:
        """Put a preview beside the residual's file, where the WebUI looks for a card's picture first."""
        status = self._jobs.get(identity)
        if not status["file"]:
            raise PersresError(f'"{status["concept"]}" has no file yet whose card could show it: press Save now.')
        found = [each for each in status["preview"] if each["step"] == step and which in ("plain", "lag")]
        if not found:
            raise PersresError("This preview is not there any more: reload the page.")
        path = Path(status["file"]).with_suffix(".png")
        try:
            write_whole(path, Path(found[0][which]).read_bytes())
        except OSError as error:
            raise PersresError(f"{path} cannot be written: {error.strerror or error}.") from error

    def _for_page(self, status: dict) -> dict:
        """A status, with the prompt that draws the concept and the side it was learned at once there is a file."""
        name = status.get("name")
        if not name or not status.get("file"):
            return {**status, "prompt": None, "side": None}
        entries = [entry for entry in self._residuals.entries if str(entry.path) == status["file"]]
        known = [entry.metadata for entry in entries if entry.metadata]
        side = known[0].recipe.get("resolution") if known else None
        return {
            **status,
            "prompt": tag_prompt(name, status["macro_class"]),
            "side": side if type(side) is int else None,
        }
