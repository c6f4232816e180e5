"""A training's texts: the fixed prompt, the empty one, and the class's; their keys and values are computed once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn

from ..concept_tokens import ConceptTokens, find_concept_tokens
from ..concepts import doubt
from ..conditioning import Conditioning
from ..errors import PersresError
from ..metadata import Metadata
from ..unet import find_blocks
from .frozen import forward_as
from .host import Host
from .recipe import Recipe

PROMPT, EMPTY, CLASS = range(3)


class Texts:
    """conditioning: 2 or 3 rows, of the prompt, the empty text and, where a stage has rows of the class, its prompt.
    tokens: the concept's in the first.

    rows: (b,), which of them each row of the UNet's next call has; None: others.
    """

    def __init__(self, conditioning: Conditioning, tokens: ConceptTokens):
        self.tokens = tokens
        self.rows: torch.Tensor | None = None
        self.set(conditioning)

    def set(self, conditioning: Conditioning) -> None:
        """Another one of the same texts; what was computed of the last is forgotten."""
        self.conditioning = conditioning
        self._known: dict[nn.Module, torch.Tensor] = {}

    @property
    def contexts(self) -> torch.Tensor:
        """(2 or 3, n, d)"""
        return self.conditioning.context

    @contextlib.contextmanager
    def fixed_in(self, unet: nn.Module) -> Iterator[None]:
        """The cross-attentions' to_k and to_v compute once and look up; hooks on them see what they always do."""
        with contextlib.ExitStack() as stack:
            for block in find_blocks(unet):
                for attention in block.attentions:
                    for module in (attention.to_k, attention.to_v):
                        stack.enter_context(forward_as(module, self._looked_up(module)))
            yield

    def _looked_up(self, module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        def forward(context: torch.Tensor) -> torch.Tensor:
            if self.rows is None:
                return own(context)
            if self.contexts.requires_grad:  # they learn: computed for each pass, but for each text once
                return own(self.contexts.to(context.dtype))[self.rows]
            if module not in self._known:
                with torch.no_grad():
                    self._known[module] = own(self.contexts.to(context.dtype))
            return self._known[module][self.rows]

        own = module.forward
        return forward


def prompts_of(recipe: Recipe, facts: Metadata) -> list[str]:
    """The training's texts in the order of PROMPT, EMPTY, CLASS."""
    prompts = [recipe.prompt(facts.identifier, facts.macro_class), ""]
    if recipe.keeps_class:
        if "{macro_class}" not in recipe.template:
            raise PersresError(f"Recipe {recipe.name} has rows of the class, but its template leaves the class out.")
        prompts.append(recipe.class_prompt(facts.macro_class))
    return prompts


def encode(host: Host, recipe: Recipe, facts: Metadata, side: int) -> Texts:
    """side: of the training's pictures. PersresError where a stage needs the concept's tokens and they are missing."""
    conditioning, ids = host.encode_prompts(prompts_of(recipe, facts), side=side)
    found = find_concept_tokens(
        ids[PROMPT].tolist(),
        host.encode_text(facts.identifier),
        host.encode_text(facts.macro_class),
    )
    if not found.identifier_found:
        raise PersresError(
            f"The template {recipe.template[:60]!r} does not show V* to the model as a word of its own among the first "
            "75 tokens, so that it would never be learned: write {identifier} near its beginning, with spaces around."
        )
    # a template without the class is one's choice: LAG then goes by the identifier alone
    chosen = "{macro_class}" not in recipe.template
    unseen = doubt(found, facts, f'"{facts.concept}"' if facts.concept else "")
    if unseen and not chosen and any(stage.localized for stage in recipe.stages):
        raise PersresError(f"This recipe learns where LAG sees the concept: {unseen}")
    if not found.class_found and any(stage.compares_maps for stage in recipe.stages):
        raise PersresError(f"Recipe {recipe.name} compares the maps of V* and its class, which is not in its template.")
    return Texts(conditioning.to(host.device), found)
