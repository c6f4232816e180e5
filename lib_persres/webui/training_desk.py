"""What the tab's page asks while a training runs, and the answers: JSON in, JSON out.

The page asks through an event of gradio's and not through the API: so the page's own login (--gradio-auth) guards it,
it needs no password of the API's in the browser, and it works without --api.
"""

from __future__ import annotations

import json
import traceback

from ..errors import PersresError
from .training_form import tag_prompt

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
    """jobs: the queue (`training.jobs.Jobs`)."""

    def __init__(self, jobs):
        self._jobs = jobs

    def answer(self, question: str) -> str:
        """{"do", "id", "places"} -> {"jobs": [...], "error": a sentence or ""}; without "do" it only looks."""
        answer = {"error": ""}
        try:
            self._act(question)
        except PersresError as error:
            answer["error"] = str(error)
        except Exception as error:
            traceback.print_exc()
            answer["error"] = f"That failed: {error!r}."
        try:
            answer["jobs"] = [_for_page(status) for status in self._jobs.list()]
        except Exception as error:  # an answer without "jobs" leaves what the page shows
            traceback.print_exc()
            answer["error"] = answer["error"] or f"The trainings cannot be listed: {error!r}."
        return json.dumps(answer)

    def _act(self, question: str) -> None:
        try:
            asked = json.loads(question or "{}")
            what, job = asked.get("do"), asked.get("id")
        except (ValueError, AttributeError, RecursionError) as error:
            raise PersresError("The page sent what is no question: reload it.") from error
        if what is None:
            return
        if not isinstance(what, str) or not isinstance(job, str):
            raise PersresError("The page sent what is no question: reload it.")
        if what == "move" and isinstance(asked.get("places"), int):
            self._jobs.move(job, asked["places"])
        elif what in ACTIONS:
            getattr(self._jobs, ACTIONS[what])(job)
        else:
            raise PersresError(f"The page asked for {what[:40]!r}, which is not known here: reload it.")


def _for_page(status: dict) -> dict:
    """A status, with the prompt that draws the concept once there is a file of it."""
    name = status.get("name")
    prompt = tag_prompt(name, status["macro_class"]) if name and status.get("file") else None
    return {**status, "prompt": prompt}
