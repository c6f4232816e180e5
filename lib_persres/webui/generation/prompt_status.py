"""What the page says below the accordion's title while a prompt is typed: its concepts, and what is wrong with them."""

from __future__ import annotations

import json
import traceback

from ...errors import PersresError, readable
from ...prompt import NETWORK, substitute
from ...residual_folder import Loaded, ResidualFolder
from ..fit import learned_elsewhere, misfit
from ..host import HOST
from .prompts import Concept, read_concepts, write_identifiers

NAME = "persres_prompt"
LONGEST, MOST = 20_000, 20
"""Characters of a prompt that is looked at, and tags that are."""


class PromptStatus:
    def __init__(self, residuals: ResidualFolder):
        self._residuals = residuals

    def answer(self, prompt: str) -> str:
        """JSON: {"concepts": [{"name", "phrase", "problem", "note"}], "problems": [sentences]}."""
        try:
            told = self._look(str(prompt or ""))
        except Exception as error:
            traceback.print_exc()
            told = {"concepts": [], "problems": [f"The prompt could not be looked at: {error!r}."]}
        return json.dumps(told)

    def _look(self, prompt: str) -> dict:
        if len(prompt) > LONGEST:
            return {"concepts": [], "problems": [f"The prompt is longer than {LONGEST} characters: not looked at."]}
        text, tags = HOST.parse_tags(prompt)
        if len(tags.get(NETWORK, ())) > MOST:
            return {"concepts": [], "problems": [f"The prompt has more than {MOST} tags of residuals: not looked at."]}
        told: list[str] = []
        concepts = read_concepts(prompt, self._outline, told.append)
        # what is wrong with one concept stands beside that one
        problems = [each for each in told if not any(c.problem and c.problem in each for c in concepts)]
        write_identifiers(text, concepts, problems.append, [""] * len(concepts))
        return {
            "concepts": [_shown(concept, number, text, concepts) for number, concept in enumerate(concepts)],
            "problems": [readable(problem) for problem in problems],
        }

    def _outline(self, name: str) -> Loaded:
        """As `ResidualFolder.load`, without its numbers."""
        entry = self._residuals.find(name)
        return Loaded(entry, self._residuals.reader.outline(entry.path), "")


def _shown(concept: Concept, index: int, text: str, concepts: list[Concept]) -> dict:
    placeholder = "V*" if index == 0 else f"V{index + 1}*"
    shown = {"name": concept.tag.name, "phrase": "", "problem": concept.problem or "", "note": ""}
    if concept.loaded is None:
        return shown
    shown["phrase"] = f"{placeholder} {concept.macro_class}".strip()
    shown["problem"] = misfit(concept.loaded.residual, concept.loaded.name, HOST.loaded_model()) or ""
    shown["note"] = learned_elsewhere(concept.loaded.residual.metadata.base_hash) or ""
    if not shown["problem"] and not _is_used(text, index, concepts):
        shown["problem"] = f'{placeholder} is not in the prompt: write "{shown["phrase"]}" where it is to be.'
    return {key: readable(value) for key, value in shown.items()}


def _is_used(text: str, index: int, concepts: list[Concept]) -> bool:
    try:
        uses = substitute(text, [c.identifier for c in concepts], [c.macro_class for c in concepts]).uses
    except PersresError:
        return True  # told for all of them
    return any(use.concept == index for use in uses)
