"""The branches while the WebUI samples: on the model that is being sampled, and live only inside its calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..branch import Branches
from ..errors import PersresError
from ..lag import MASKS, Plan
from ..overlay import MaskRecorder
from .files import Loaded
from .prompts import Concept, Texts, Tokens
from .rows import Row, Rows
from .settings import Settings
from .vocabulary import word_of


class Stage:
    """One pass of a batch, the first or the hires one: which concepts each image has, how strong, and when."""

    def __init__(self, images: Sequence[Sequence[Concept]], settings: Settings, hires: bool = False):
        self.images = [list(concepts) for concepts in images]
        self.settings = settings
        self.hires = hires
        self.loaded: list[Loaded] = []
        """The residuals of all images, each once: the K concepts of a plan."""
        for concepts in self.images:
            for concept in concepts:
                if concept.loaded is not None and concept.loaded not in self.loaded:
                    if self.strength(concept) != 0:
                        self.loaded.append(concept.loaded)

    def strength(self, concept: Concept) -> float:
        tag = concept.tag
        return self.settings.strength * (tag.hr if self.hires and tag.hr is not None else tag.strength)

    def strength_at(self, concept: Concept, done: float) -> float:
        """done: the part of this pass's evaluations that lies behind."""
        return self.strength(concept) if concept.tag.start <= done < concept.tag.end else 0.0

    def word(self, concept: Concept) -> str:
        """The learned word in the place of the concept's identifier; "" where there is none, or the tag is off."""
        return "" if concept.loaded is None or self.strength(concept) == 0 else word_of(concept.loaded)

    def wants_lag(self, concept: Concept) -> bool:
        return self.settings.lag if concept.tag.lag is None else concept.tag.lag


class Sampling:
    """Hooks for one `p.sample`. `evaluate` begins each evaluation of the denoiser; `close` leaves nothing behind.

    problem: told a sentence for the user, and the residual that cannot be used where it is one.
    """

    def __init__(self, problem: Callable[[str, Loaded | None], None]):
        self.problem = problem
        self.recorder: MaskRecorder | None = None
        self._branches: Branches | None = None
        self._unet = None
        self._stage: Stage | None = None
        self._attached: list[Loaded] = []
        self._handles: list = []
        self._tokens: Tokens | None = None
        self._reset()

    def _reset(self) -> None:
        self._rows: Rows | None = None
        self._masks: dict[str, dict[int, torch.Tensor]] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._seen: set[int] = set()

    def close(self) -> None:
        """Remove every hook. May be called twice, at any time."""
        while self._handles:
            self._handles.pop().remove()
        if self._branches is not None:
            self._branches.detach()
        self._branches = self._unet = self._stage = None
        self._attached = []
        self._reset()

    def evaluate(
        self,
        model,
        stage: Stage,
        texts: Sequence[Sequence[Texts]],
        cond: torch.Tensor,
        uncond: torch.Tensor,
        step: int,
        total: int,
    ) -> None:
        """An evaluation of the denoiser begins.

        model: the WebUI's model, sampled now. texts: each image's parts. cond (Σ parts, n, d) and uncond
        (images, m, d): the rows' contexts. step of total: how far this pass is, in evaluations.
        """
        self._keep_masks()
        self._reset()
        unet = model.model.diffusion_model
        if unet is not self._unet or stage is not self._stage:
            self._attach(unet, stage)
        if self._tokens is None or self._tokens.model is not model.cond_stage_model:
            self._tokens = Tokens(model.cond_stage_model)
        self._parts = [len(parts) for parts in texts]
        self._rows = Rows(self._parts, cond, uncond)
        self._step = step
        done = step / total if total else 0.0
        # for each image and residual: strength, whether LAG confines it, and the tokens in each part's live text
        images = len(stage.images)
        self._strength = torch.zeros(images, len(self._attached))
        self._gated = torch.zeros(images, len(self._attached), dtype=torch.bool)
        self._indices: dict[tuple[int, int, int], tuple[int, ...]] = {}
        for image, concepts in enumerate(stage.images):
            for index, concept in enumerate(concepts):
                if concept.loaded in self._attached:
                    self._weigh(image, index, concept, texts[image], done)

    def _weigh(self, image: int, index: int, concept: Concept, parts: Sequence[Texts], done: float) -> None:
        stage, k = self._stage, self._attached.index(concept.loaded)
        self._strength[image, k] = stage.strength_at(concept, done)
        concepts = [c for c in stage.images[image] if c.loaded is not None]
        place = concepts.index(concept)
        words = [stage.word(c) for c in concepts]
        found = {text: self._tokens.find(text, concepts, place, words) for part in parts for _, text in part.schedule}
        named = any(tokens.indices for tokens in found.values())
        lag = stage.wants_lag(concept)
        if lag and (problem := concept.loaded.residual.lag_problem(concept.tag.text)):
            self.problem(problem, None)
            lag = False
        # a text without the concept is a problem only where no other text of the prompt has it
        problems = [tokens.problem for tokens in found.values() if tokens.indices or not named]
        if lag and any(problems):
            self.problem(next(filter(None, problems)), None)
        elif not named:
            self.problem(f"{concept.tag.text} acts, but its V* is not in the prompt.", None)
        if lag and concept.identifier and not any(tokens.identifier_found for tokens in found.values()):
            self._strength[image, k] = 0.0  # nothing asks for it: the base model
        self._gated[image, k] = lag and named
        for number, part in enumerate(parts):
            self._indices[image, number, k] = found[part.at(self._step)].indices

    # -- the UNet's hooks

    def _attach(self, unet, stage: Stage) -> None:
        """Move the hooks to the model and the pass that are sampled now."""
        self.close()
        wanted = []
        for loaded in stage.loaded:
            try:
                loaded.residual.check(unet, loaded.name)
            except PersresError as error:
                self.problem(str(error), loaded)
            else:
                wanted.append(loaded)
        self._unet, self._stage, self._attached = unet, stage, wanted
        self.recorder = MaskRecorder() if stage.settings.show_masks else None
        if not wanted:
            return
        self._branches = Branches(unet, [loaded.residual for loaded in wanted]).attach()
        self._handles = [
            unet.register_forward_pre_hook(self._enter, with_kwargs=True),
            unet.register_forward_hook(self._leave, always_call=True),
        ]

    def _enter(self, module, args, kwargs) -> None:
        self._branches.plan = None
        context = kwargs.get("context", args[2] if len(args) > 2 else None)
        if self._rows is not None and context is not None:
            # an extension may mark prompts with one more vector in front, which it takes off in the UNet
            tokens = context.shape[1] - (context.shape[1] % 77 == 1)
            self._branches.plan = self._plan(self._rows.identify(context), tokens, context.device)

    def _leave(self, module, args, output) -> None:
        if self._branches is not None:
            self._branches.plan = None

    def _plan(self, rows: Sequence[Row | None], tokens: int, device) -> Plan | None:
        """The plan of a call with these rows and this many tokens in its context."""
        mirror = self._stage.settings.unconditional == "mirror"
        count = len(self._attached)
        strength = torch.zeros(len(rows), count)
        gated = torch.zeros(len(rows), count, dtype=torch.bool)
        indicator = torch.zeros(len(rows), count, tokens)
        own = [row is not None and row.part is not None for row in rows]
        here = {row.image for row in rows if row is not None and row.part is not None}
        for place, row in enumerate(rows):
            if row is None or (row.part is None and not mirror):
                continue
            strength[place], gated[place] = self._strength[row.image], self._gated[row.image]
            for k in gated[place].nonzero().flatten().tolist():
                if row.part is not None:
                    indices = [index for index in self._indices[row.image, row.part, k] if index < tokens]
                    indicator[place, k, indices] = 1
                    named = bool(indices)
                else:
                    # without the image's masks another extension asked for the unconditional row first
                    named = row.image in self._seen | here and any(
                        self._indices[row.image, part, k] for part in range(self._parts[row.image])
                    )
                if not named:  # LAG, and nothing in the row's text is the concept's: the base model
                    strength[place, k], gated[place, k] = 0.0, False
        self._seen |= here
        if not strength.any():
            # the masks of rows whose strength is zero now are never asked for
            return None
        return Plan(
            strength.to(device),
            gated.to(device),
            indicator.to(device),
            torch.tensor(own),
            torch.tensor([len(self._stage.images) if row is None else row.image for row in rows]),
            mask=MASKS[self._stage.settings.mask],
            recorder=self._remember_size,
            memory=self._masks,
        )

    # -- what LAG did, for the overlays

    def _remember_size(self, block: str, masks, maps, size: tuple[int, int]) -> None:
        self._sizes[block] = size

    def _keep_masks(self) -> None:
        """Add the masks of the evaluation that ended to the recorder."""
        if self.recorder is None or not self._sizes:
            return
        for block, size in self._sizes.items():
            masks = self._masks[block]
            like = torch.zeros_like(next(iter(masks.values())))
            images = torch.stack([masks.get(image, like) for image in range(self._strength.shape[0])])
            self.recorder(block, images, images, size)

    def take_masks(self) -> tuple[MaskRecorder | None, list[Loaded]]:
        """The masks of the last pass, None where there are none, and the residuals of their K concepts."""
        self._keep_masks()
        self._sizes = {}
        return (self.recorder if self.recorder and self.recorder.calls else None), list(self._attached)
