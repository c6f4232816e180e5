"""The branches while the WebUI samples: on the model that is being sampled, and live only inside its calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ...branch import Branches
from ...concept_tokens import absence
from ...errors import PersresError
from ...finite import BASE, TEXT
from ...lag import MASKS
from ...overlay import MaskRecorder
from ...residual_folder import Loaded
from ..host import HOST
from ..settings import Settings
from .plans import Plans
from .prompts import Concept, Texts, Tokens
from .rows import Row, Rows
from .words import word_of


class Stage:
    """One pass of a batch, the first or the hires one: which concepts each image has, how strong, and when."""

    def __init__(self, images: Sequence[Sequence[Concept]], settings: Settings, hires: bool = False):
        self.images = [list(concepts) for concepts in images]
        self.settings = settings
        self.hires = hires
        self._words = {
            concept: word_of(concept.loaded, self.strength(concept) != 0)
            for concepts in self.images
            for concept in concepts
            if concept.loaded is not None
        }
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
        """The word of our own in the place of the concept's identifier; "" where that stands itself."""
        return self._words.get(concept, "")

    def wants_lag(self, concept: Concept) -> bool:
        return self.settings.lag if concept.tag.lag is None else concept.tag.lag


class Sampling:
    """Hooks for one `p.sample`. `evaluate` begins each evaluation of the denoiser; `close` leaves nothing behind.

    problem: told a sentence for the user. attached: told, for each model and pass, of each residual why it cannot act
    there, or None.
    """

    def __init__(
        self, problem: Callable[[str], None], attached: Callable[[dict[Loaded, str | None]], None] = lambda _: None
    ):
        self.problem = problem
        self.attached = attached
        self.recorder: MaskRecorder | None = None
        self._branches: Branches | None = None
        self._unet = None
        self._stage: Stage | None = None
        self._attached: list[Loaded] = []
        self._handles: list = []
        self._tokens: Tokens | None = None
        self._asked: tuple | None = None
        """The arguments of the first call of the UNet."""
        self._reset()

    def _reset(self) -> None:
        self._rows: Rows | None = None
        self._plans: Plans | None = None
        self._vectors: torch.Tensor | None = None
        self._sizes: dict[str, tuple[int, int]] = {}

    def close(self) -> None:
        """Remove every hook. May be called twice, at any time."""
        while self._handles:
            self._handles.pop().remove()
        if self._branches is not None:
            self._branches.detach()
        self._branches = self._unet = self._stage = self._asked = None
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
        vectors: torch.Tensor | None = None,
    ) -> None:
        """An evaluation of the denoiser begins.

        model: the WebUI's model, sampled now. texts: each image's parts. cond (Σ parts, n, d) and uncond
        (images, m, d): the rows' contexts. step of total: how far this pass is, in evaluations. vectors: (Σ parts, m),
        what SDXL's UNet is given beside cond.
        """
        self._keep_masks()
        self._reset()
        unet, encoder = HOST.unet(model), HOST.text_encoder(model)
        if unet is not self._unet or stage is not self._stage:
            self._attach(unet, stage)
        if self._tokens is None or self._tokens.encoder is not encoder:
            self._tokens = Tokens(encoder)
        parts = [len(each) for each in texts]
        self._rows, self._vectors = Rows(HOST.row_order(parts), cond, uncond), vectors
        settings = stage.settings
        mirror, mask = settings.unconditional == "mirror", MASKS[settings.mask]
        self._plans = Plans(parts, len(self._attached), mirror, mask, self._remember_size)
        self._step = step
        done = step / total if total else 0.0
        for image, concepts in enumerate(stage.images):
            for index, concept in enumerate(concepts):
                if concept.loaded in self._attached:
                    self._weigh(image, index, concept, texts[image], done)

    def _weigh(self, image: int, index: int, concept: Concept, parts: Sequence[Texts], done: float) -> None:
        stage, k = self._stage, self._attached.index(concept.loaded)
        self._plans.strength[image, k] = stage.strength_at(concept, done)
        concepts = [c for c in stage.images[image] if c.loaded is not None]
        place = concepts.index(concept)
        words = [stage.word(c) for c in concepts]
        found = {text: self._tokens.find(text, concepts, place, words) for part in parts for _, text in part.schedule}
        named = any(tokens.indices for tokens in found.values())
        asked = any(tokens.identifier_found for tokens in found.values())
        lag = stage.wants_lag(concept)
        if lag and (problem := concept.loaded.residual.lag_problem(concept.tag.text)):
            self.problem(problem)
            lag = False
        # a text without the concept is a problem only where no other text of the prompt has it
        problems = [tokens.problem for tokens in found.values() if tokens.indices or not named]
        if lag and any(problems):
            self.problem(next(filter(None, problems)))
        elif not asked and concept.identifier:
            self.problem(absence(concept.tag.text, concept.placeholder))
        if lag and concept.identifier and not asked:
            self._plans.strength[image, k] = 0.0  # nothing asks for it: the base model
        self._plans.gated[image, k] = lag and named
        for number, part in enumerate(parts):
            self._plans.indices[image, number, k] = found[part.at(self._step)].indices

    # -- the UNet's hooks

    def _attach(self, unet, stage: Stage) -> None:
        """Move the hooks to the model and the pass that are sampled now."""
        self.close()
        reasons: dict[Loaded, str | None] = {}
        for loaded in stage.loaded:
            try:
                loaded.residual.check(unet, loaded.name)
                reasons[loaded] = None
            except PersresError as error:
                reasons[loaded] = str(error)
        self.attached(reasons)
        wanted = [loaded for loaded, reason in reasons.items() if reason is None]
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
        self._asked = self._asked or (args, kwargs)
        if self._rows is not None and context is not None:
            rows = self._rows.identify(context)
            if late := self._plans.late(rows):
                self._make_masks(module, late, rows, args, kwargs)
            self._branches.plan = self._plans.plan(rows, _tokens(context), context.device)

    def _make_masks(self, module, late: Sequence[Row], rows: Sequence[Row | None], args, kwargs) -> None:
        """Ask the UNet for these rows first, for their masks alone: the picture does not hang on how the WebUI cuts an
        evaluation into calls."""
        images = [row.image if row is not None else None for row in rows]
        places = [images.index(row.image) for row in late]
        numbers = [self._rows.rows.index(row) for row in late]

        def taken(value):
            return value[places] if isinstance(value, torch.Tensor) and len(value) == len(rows) else value

        args, kwargs = [taken(value) for value in args], {name: taken(value) for name, value in kwargs.items()}
        given = args[2] if len(args) > 2 else kwargs["context"]
        context = torch.stack([self._rows.contexts[number] for number in numbers]).to(given)
        args, kwargs = args[:2], {**dict(zip(("context", "y"), args[2:])), **kwargs, "context": context}
        if kwargs.get("y") is not None and self._vectors is not None:
            kwargs["y"] = self._vectors[numbers].to(kwargs["y"])
        self._branches.plan = self._plans.plan(late, _tokens(context), context.device)
        module.forward(*args, **kwargs)

    def _leave(self, module, args, output) -> None:
        if self._branches is not None:
            self._branches.plan = None

    # -- what went wrong

    def model_problem(self) -> str | None:
        """Where the numbers of this sampling are not finite: a sentence if the model's own are not. The last thing to
        be asked: the branches are gone after it."""
        if self._asked is None:
            return None
        (args, kwargs), unet = self._asked, self._unet
        self.close()
        x, context = args[0], kwargs.get("context", args[2] if len(args) > 2 else None)
        if not torch.isfinite(context).all():
            return TEXT
        x = x if torch.isfinite(x).all() else torch.randn_like(x)
        return None if torch.isfinite(unet(x, *args[1:], **kwargs)).all() else BASE

    def strengths(self, images: Sequence[int] | None = None) -> dict[str, float]:
        """How strong the concepts of these images (None: all) act, by their tags."""
        stage = self._stage
        if stage is None or not self._attached:
            return {}
        concepts = [c for i, each in enumerate(stage.images) if images is None or i in images for c in each]
        return {c.tag.text: stage.strength(c) for c in concepts if c.loaded in self._attached}

    # -- what LAG did, for the overlays

    def _remember_size(self, block: str, masks, maps, size: tuple[int, int]) -> None:
        self._sizes[block] = size

    def _keep_masks(self) -> None:
        """Add the masks of the evaluation that ended to the recorder."""
        if self.recorder is None or not self._sizes:
            return
        for block, size in self._sizes.items():
            masks = self._plans.masks[block]
            like = torch.zeros_like(next(iter(masks.values())))
            images = torch.stack([masks.get(image, like) for image in range(len(self._plans.parts))])
            self.recorder(block, images, images, size)

    def take_masks(self) -> tuple[MaskRecorder | None, list[Loaded]]:
        """The masks of the last pass, None where there are none, and the residuals of their K concepts."""
        self._keep_masks()
        self._sizes = {}
        return (self.recorder if self.recorder and self.recorder.calls else None), list(self._attached)


def _tokens(context: torch.Tensor) -> int:
    # an extension may mark prompts with one more vector in front, which it takes off in the UNet
    return context.shape[1] - (context.shape[1] % 77 == 1)
