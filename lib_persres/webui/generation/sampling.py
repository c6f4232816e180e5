"""The branches while the WebUI samples: on the model that is being sampled, and live only inside its calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from ...branch import Branches
from ...concepts import Use, cannot_confine, decide
from ...finite import BASE, TEXT
from ...lag_choice import decided, lag_choice
from ...learned_words import twins_of
from ...masks import EARLY, MASKS
from ...overlay import MaskRecorder
from ...plan import Plan, Plans, Row
from ...residual_folder import Loaded
from ..fit import misfit
from ..host import HOST
from ..settings import Settings
from .prompts import Concept, Texts, Tokens
from .rows import Rows, context_of
from .words import word_of


class Pass:
    """One pass of a batch, the first or the hires one: which concepts each image has, how strong, and when."""

    def __init__(self, images: Sequence[Sequence[Concept]], settings: Settings, hires: bool = False):
        self.images = [list(concepts) for concepts in images]
        self.settings = settings
        self.hires = hires
        self._words: dict[Concept, str] = {}
        for concepts in self.images:
            known = [(concept, concept.loaded) for concept in concepts if concept.loaded is not None]
            twins = twins_of([concept.facts for concept, _ in known])
            for place, (concept, loaded) in enumerate(known):
                self._words[concept] = word_of(concept.facts, loaded, self.strength(concept) != 0, place in twins)
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

    def word(self, concept: Concept) -> str:
        """The word of our own in the place of the concept's identifier; "" where that stands itself."""
        return self._words.get(concept, "")

    def decided(self, concept: Concept) -> tuple[bool, str]:
        """Whether LAG is to confine a concept, and what auto made of it; "" where it was not asked."""
        return decided(lag_choice(concept.tag.lag or self.settings.lag), concept.lent)

    def confines(self, concept: Concept) -> bool:
        """Whether LAG confines what a concept changes of the UNet, as far as its tag and file say."""
        wanted = bool(concept.identifier) and self.decided(concept)[0]
        return wanted and cannot_confine(concept.tag.text, concept.facts, self.settings.mask in EARLY) is None


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
        self._unet: nn.Module | None = None
        self._pass: Pass | None = None
        self._attached: list[Loaded] = []
        self._early = False
        """Whether the mask is there before the rows that make it."""
        self._handles: list = []
        self._tokens: Tokens | None = None
        self._asked: tuple[tuple, dict] | None = None
        """The arguments of the first call of the UNet."""
        self._reset()

    def _reset(self) -> None:
        self._rows: Rows | None = None
        self._plans: Plans | None = None

    def close(self) -> None:
        """Remove every hook. May be called twice, at any time."""
        while self._handles:
            self._handles.pop().remove()
        if self._branches is not None:
            self._branches.detach()
        self._branches = self._unet = self._pass = self._asked = None
        self._attached = []
        self._reset()

    def evaluate(
        self,
        model,
        current: Pass,
        texts: Sequence[Sequence[Texts]],
        cond: torch.Tensor,
        uncond: torch.Tensor,
        step: int,
        total: int,
        vectors: torch.Tensor | None = None,
        begun: float = 0.0,
    ) -> None:
        """An evaluation of the denoiser begins.

        model: the WebUI's model, sampled now. texts: each image's parts. cond (Σ parts, n, d) and uncond
        (images, m, d): the rows' contexts. step of total: how far this pass is, in evaluations. vectors: (Σ parts, m),
        what SDXL's UNet is given beside cond. begun: the part of a sampling from pure noise that this pass leaves out.
        """
        self._reset()
        unet, encoder = HOST.unet(model), HOST.text_encoder(model)
        if unet is not self._unet or current is not self._pass:
            self._attach(model, current)
        if self._branches is None:
            return
        if self._tokens is None or self._tokens.encoder is not encoder:
            self._tokens = Tokens(encoder)
        tokens = self._tokens
        done = step / total if total else 0.0
        self._branches.begin(step, begun + (1 - begun) * min(done, 1.0) if total > 1 else None)
        self._rows = Rows(HOST.row_order([len(each) for each in texts]), cond, uncond, vectors)
        uses = [self._uses(current, tokens, image, parts, step, done) for image, parts in enumerate(texts)]
        self._plans = Plans(uses, current.settings.unconditional)

    def _uses(
        self, current: Pass, tokens: Tokens, image: int, parts: Sequence[Texts], step: int, done: float
    ) -> list[Use]:
        """What each attached residual does in an image now."""
        concepts = [concept for concept in current.images[image] if concept.loaded is not None]
        words = [current.word(concept) for concept in concepts]
        uses = dict.fromkeys(self._attached, Use(0.0, False, ((),) * len(parts)))
        for place, concept in enumerate(concepts):
            if concept.loaded not in uses:
                continue
            found = {text: tokens.find(text, concepts, place, words) for part in parts for _, text in part.schedule}
            uses[concept.loaded] = use = decide(
                concept.tag,
                concept.facts,
                list(found.values()),
                lag=current.settings.lag,
                strength=current.strength(concept),
                done=done,
                now=[found[part.at(step)] for part in parts],
                placeholder=concept.placeholder,
                lent=concept.lent,
                early=current.settings.mask in EARLY,
                several=sum(current.strength(other) != 0 for other in concepts) > 1,
                word=concept.word,
            )
            for sentence in use.sentences:
                self.problem(sentence)
        return [uses[loaded] for loaded in self._attached]

    # -- the UNet's hooks

    def _attach(self, model, current: Pass) -> None:
        """Move the hooks to the model and the pass that are sampled now."""
        self.close()
        unet = HOST.unet(model)
        reasons = {loaded: misfit(loaded.residual, loaded.name, model) for loaded in current.loaded}
        self.attached(reasons)
        wanted = [loaded for loaded, reason in reasons.items() if reason is None]
        self._unet, self._pass, self._attached = unet, current, wanted
        settings = current.settings
        self.recorder = MaskRecorder(len(current.images)) if settings.show_masks else None
        if not wanted:
            return
        residuals = [loaded.residual for loaded in wanted]
        mask = MASKS[settings.mask]()
        self._early = mask.early
        self._branches = Branches(unet, residuals, mask, self.recorder).attach()
        self._handles = [
            unet.register_forward_pre_hook(self._enter, with_kwargs=True),
            unet.register_forward_hook(self._leave, always_call=True),
        ]

    def _enter(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        branches, plans = self._branches, self._plans
        assert branches is not None  # they have the hook
        branches.plan = None
        context = context_of(args, kwargs)
        self._asked = self._asked or (args, kwargs)
        if self._rows is None or plans is None or context is None:
            return
        rows = self._rows.identify(context, HOST.conditional(kwargs, len(context)))
        if not self._early and (missing := plans.missing(rows)):
            # for their masks alone: the picture does not hang on how the WebUI cuts an evaluation into calls
            own_args, own_kwargs = self._rows.instead(missing, rows, args, HOST.conditionally(kwargs))
            branches.plan = _plan(plans, missing, own_kwargs["context"])
            module.forward(*own_args, **own_kwargs)
        branches.plan = _plan(plans, rows, context)

    def _leave(self, module: nn.Module, args: tuple, output: object) -> None:
        if self._branches is not None:
            self._branches.plan = None

    # -- what went wrong

    def model_problem(self) -> str | None:
        """Where the numbers of this sampling are not finite: a sentence if the model's own are not. The last thing to
        be asked: the branches are gone after it."""
        asked, unet = self._asked, self._unet
        if asked is None or unet is None:
            return None
        args, kwargs = asked
        self.close()
        x, context = args[0], context_of(args, kwargs)
        if not torch.isfinite(context).all():
            return TEXT
        x = x if torch.isfinite(x).all() else torch.randn_like(x)
        return None if torch.isfinite(unet(x, *args[1:], **kwargs)).all() else BASE

    def strengths(self, images: Sequence[int] | None = None) -> dict[str, float]:
        """How strong the concepts of these images (None: all) act, by their tags."""
        current = self._pass
        if current is None or not self._attached:
            return {}
        concepts = [c for i, each in enumerate(current.images) if images is None or i in images for c in each]
        return {c.tag.text: current.strength(c) for c in concepts if c.loaded in self._attached}

    # -- what LAG did, for the overlays

    def take_masks(self) -> tuple[MaskRecorder | None, list[Loaded]]:
        """The masks of the last pass, None where there are none, and the residuals of their K concepts."""
        if self.recorder is not None:
            self.recorder.end()
        return (self.recorder if self.recorder and self.recorder.calls else None), list(self._attached)


def _plan(plans: Plans, rows: Sequence[Row | None], context: torch.Tensor) -> Plan | None:
    # an extension may mark prompts with one more vector in front, which it takes off in the UNet
    tokens = context.shape[1] - (context.shape[1] % 77 == 1)
    return plans.plan(rows, tokens, context.device)
