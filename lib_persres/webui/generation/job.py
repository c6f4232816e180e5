"""One `process_images` of the WebUI: what its prompts ask for, what came of it, and its hooks while it samples.

A job is kept on its own processing object `p`, nowhere else. Whatever happens to the generation, its hooks are on
the UNet only while `p.sample` runs.
"""

from __future__ import annotations

import functools

import torch

from ...errors import PersresError, readable
from ...finite import VAE, too_strong
from ...lora.adapter import text_of, text_problems
from ...overlay import MaskRecorder, overlay
from ...prompt import NETWORK
from ...residual_folder import Loaded, ResidualFolder
from ..fit import other_base
from ..host import HOST
from ..settings import Settings
from .infotext import Decided, PerImage, note, write_infotext
from .prompts import Concept, negative_problems, parts_of, read_concepts, write_identifiers
from .reasons import Reasons
from .sampling import Pass, Sampling
from .text_marks import MarkedTexts, marked
from .words import LentWords, unreadable

ATTRIBUTE = "persres_job"
WRAPPED = ("setup_conds", "sample")
"""The calls of p in which a job has something to do, by the names of its own methods."""


class Job:
    def __init__(self, p, residuals: ResidualFolder, settings: Settings):
        self.p = p
        self.residuals = residuals
        self.settings = settings
        self.sources: list[str] | None = None
        """The batch's prompts before the tags were taken out; the WebUI's own list, which scripts may change."""
        self.hashes = PerImage(lambda name, digits: f"{name}: {digits}")
        """Tag name -> short hash, of the residuals that were used."""
        self.refused = PerImage(lambda name, why: name)
        """Tag name -> why it was not."""
        self.partly = PerImage(lambda name, where: f"{name} (not in {where})")
        """Tag name -> the passes in which it was not."""
        self.trained = PerImage(lambda name, digits: f"{name}: {digits}")
        """Tag name -> short hash of the checkpoint it was trained on, where that is not the one of this job."""
        self.decided = Decided()
        """Tag name -> what LAG auto made of it, and why."""
        self.overlays: list = []
        """(image, infotext, seed) of each mask overlay."""
        self._passes: dict[bool, Pass] = {}
        self._words = LentWords(self._unreadable)
        self._marks = MarkedTexts(self._unknown, self.tell)
        self._hires = False
        self._reasons = Reasons()
        self._finite = False
        """Whether this batch was sampled with residuals, and its latents are finite."""
        self._sampling: Sampling | None = None
        self._masks: tuple[MaskRecorder | None, list[Loaded]] = (None, [])
        self._texts_for: tuple = (None, [])

    @staticmethod
    def of(p) -> Job | None:
        job = getattr(p, ATTRIBUTE, None)
        # scripts such as the XYZ plot copy p: the copy is another generation
        return job if job is not None and job.p is p else None

    @classmethod
    def start(cls, p, residuals: ResidualFolder, settings: Settings) -> Job:
        old = getattr(p, ATTRIBUTE, None)
        if old is not None and old.p is p:
            old.close()
        unwrap(p)
        job = cls(p, residuals, settings)
        setattr(p, ATTRIBUTE, job)
        return job

    def close(self) -> None:
        if self._sampling is not None:
            self._sampling.close()
        self._sampling = None
        self._passes = {}

    def tell(self, sentence: str) -> None:
        """Show the user a sentence, once: under the picture, as a warning, in the API's info, and in the console."""
        sentence = readable(sentence)
        if sentence not in self.p.comments:
            self.p.comment(sentence)
            note(self.p, sentence)
            HOST.warn(sentence)
            print(f"{NETWORK}: {sentence}")

    # -- a batch begins

    def begin(self, hires: bool) -> None:
        """The WebUI activates extra networks for a pass; everything of an earlier activation is forgotten.

        Both passes are read with the first, since under lowvram their conds are made together.
        """
        if not hires:
            self._passes, self._words.known = {}, {}
            self._marks.forget()
            self._finite = False
        if not hires and self._sampling is None:  # else the refiner comes in, before which they may have acted
            self._reasons = Reasons()
        self._hires = hires
        first: list[str] = []
        for which, given, stripped, negative in self._prompts():
            if which in self._passes:
                continue
            what = "hires prompt" if which and given != first else "prompt"
            images = [read_concepts(prompt, self.residuals.load, self.tell, what) for prompt in given]
            self._note(images)
            first = first or given
            self._passes[which] = current = Pass(images, self.settings, which)
            for index, concepts in enumerate(images):
                number = self.p.iteration * self.p.batch_size + index
                for concept in concepts:
                    if concept.loaded and (auto := current.decided(concept)[1]):
                        self.decided.add(number, concept.tag.name, which, auto)
                words = [current.word(concept) for concept in concepts]
                own = zip(words, concepts)
                self._words.known |= {word: (c.loaded, c.identifier) for word, c in own if word and c.loaded}
                for sentence in negative_problems(negative[index], concepts) if index < len(negative) else ():
                    self.tell(sentence)
                mark = self._mark(concepts, current)
                for texts in (stripped, negative):
                    if index < len(texts):
                        written = write_identifiers(texts[index], concepts, self.tell, words)
                        # an empty negative one says nothing to SDXL, whatever the encoders are
                        says = written or texts is stripped or HOST.family(HOST.model()) != "SDXL"
                        texts[index] = marked(written, mark) if says else written
            for loaded in current.loaded:
                if why := unreadable(loaded):
                    self._problem(why, loaded)
        self._words.renew()
        self._marks.renew()
        write_infotext(self)
        # a word stands in the text at strength 0, too
        if self._words.known or any(current.loaded for current in self._passes.values()):
            wrap(self.p)
        else:
            unwrap(self.p)

    def _mark(self, concepts: list[Concept], current: Pass) -> str:
        """Of an image's texts, see `text_marks`."""
        acting = {}
        for concept in concepts:
            if concept.loaded is None:
                continue
            own = concept.loaded.residual, concept.tag, current.confines(concept)
            for sentence in text_problems(*own):
                self.tell(sentence)
            acting[concept.loaded] = text_of(*own), current.strength(concept)
        return self._marks.mark(acting)

    def _unknown(self, loaded: Loaded, count: int) -> None:
        """The model has no such layers of the text encoder."""
        if HOST.is_refiner(HOST.model()):
            return  # it goes on without the file, which is said
        for current in self._passes.values():
            for concept in (c for concepts in current.images for c in concepts if c.loaded is loaded):
                for sentence in text_problems(loaded.residual, concept.tag, False, count):
                    self.tell(sentence)

    def _prompts(self):
        """For each pass (whether it is the hires one, prompts with tags, and the texts that conds are made of:
        of the prompts, and of the negative prompts, which have no tags: their V* is their image's)."""
        p = self.p
        batch = slice(p.iteration * p.batch_size, (p.iteration + 1) * p.batch_size)
        given = self.sources
        if given is None or len(given) != len(p.prompts):
            given = p.all_prompts[batch]
        yield False, list(given), p.prompts, p.negative_prompts
        if getattr(p, "enable_hr", False) and p.hr_prompts and p.all_hr_prompts:
            yield True, list(p.all_hr_prompts[batch]), p.hr_prompts, p.hr_negative_prompts

    def _note(self, images: list[list[Concept]]) -> None:
        info = HOST.checkpoint(HOST.model())
        for concept in (concept for concepts in images for concept in concepts):
            name, loaded = concept.tag.name, concept.loaded
            if loaded is None:
                self.refused[name] = concept.problem
                continue
            self.hashes[name] = loaded.short_hash
            if base := other_base(loaded.residual.metadata, getattr(info, "sha256", None)):
                self.trained[name] = base

    # -- conds

    def setup_conds(self, original, *args, **kwargs):
        """`p.setup_conds`, in which the WebUI knows the learned words."""
        try:
            with self._words.lent(), self._marks.lent():
                return original(*args, **kwargs)
        finally:
            self._name_words()

    def _name_words(self) -> None:
        """The WebUI lists the embeddings that it used: ours with their files' names, or not at all."""
        comments = HOST.comments()
        comments[:] = map(self._words.named, comments)
        HOST.hide_embeddings(self._words.known)

    def _unreadable(self, sentence: str, loaded: Loaded) -> None:
        """A learned word is not for the model; what else the file has may be."""
        if loaded.residual.factors:
            self.tell(sentence)
        else:
            self._problem(sentence, loaded)

    # -- sampling

    def sample(self, original, *args, **kwargs):
        """`p.sample` with the branches and words at hand; they are gone after it, however it ends."""
        sampling = Sampling(self.tell, lambda reasons: self._reasons.note(self._where(), reasons))
        self._sampling, self._masks = sampling, (None, [])
        try:
            with self._words.lent(), self._marks.lent():
                result = original(*args, **kwargs)
            self._masks = sampling.take_masks()
            self._name_words()  # those of the hires pass
            self._check(result, sampling)
            return result
        except HOST.NotFinite as error:  # the hires pass is decoded in here
            raise (self._not_finite(sampling, None) or error) from error
        finally:
            sampling.close()
            self._sampling = None
            for loaded, where, why in self._reasons.told():
                self._problem(why, loaded, where)

    # -- numbers that are not finite

    def _check(self, result, sampling: Sampling) -> None:
        """Raise or tell where a picture is not finite; one look at the end, since each look waits for the device."""
        finite = torch.stack([torch.isfinite(part).all() for part in result]).tolist()
        broken = [image for image, fine in enumerate(finite) if not fine]
        self._finite = not broken and bool(sampling.strengths())
        error = self._not_finite(sampling, broken, getattr(result, "already_decoded", False))
        if error is not None:
            if not HOST.flag("disable_nan_check"):
                raise error
            self.tell(str(error))

    def _not_finite(self, sampling: Sampling, images: list[int] | None, decoded: bool = True) -> Exception | None:
        """The error with a sentence, and its status, of what made these images (None: all) not finite; None without
        residuals."""
        strengths = sampling.strengths(images)
        if not strengths:
            return None
        latent, status = HOST.latent(), 500
        sentence = sampling.model_problem()
        if sentence is None and decoded and latent is not None and torch.isfinite(latent).all():
            sentence = VAE
        if sentence is None:
            sentence, status = too_strong(strengths), 422
        told = HOST.NotFinite(sentence)
        told.detail, told.status_code = sentence, status
        return told

    def check_pictures(self, pictures: torch.Tensor) -> None:
        """What the VAE made of the latents, on the CPU."""
        if self._finite and not torch.isfinite(pictures).all():
            self.tell(VAE)

    def _where(self) -> str:
        """What the user calls the pass, and the model, that is sampled now."""
        name = "the hires pass" if getattr(self.p, "is_hr_pass", False) else "the first pass"
        refiner = getattr(self.p, "refiner_checkpoint_info", None)
        now = HOST.checkpoint(HOST.model())
        own = getattr(self.p, "sd_model_name", None)
        if refiner is None or now != refiner or own == refiner.name_for_extra:
            return name
        return f"the refiner's part of {name}"

    def _problem(self, sentence: str, loaded: Loaded, where: str = "") -> None:
        """A residual is left out; where: in which passes, if it acted in others."""
        for current in self._passes.values():
            for concept in (concept for concepts in current.images for concept in concepts):
                if concept.loaded is not loaded:
                    continue
                if where:
                    self.partly[concept.tag.name] = where
                    self.tell(f"{concept.tag.text} was not applied in {where}, only before or after it: {sentence}")
                else:
                    self.refused[concept.tag.name] = sentence
                    self.hashes.pop(concept.tag.name, None)
                    self.tell(f"{concept.tag.text} was not applied: {sentence}")

    def evaluate(self, params) -> None:
        """The WebUI's cfg_denoiser callback."""
        hires = bool(getattr(self.p, "is_hr_pass", False))
        current = self._passes.get(hires) or self._passes.get(False)
        if self._sampling is None or current is None:
            return
        try:
            if HOST.replaced_unet():
                raise PersresError("a replacement UNet is active (Settings > SD Unet).")
            texts = self._texts(hires)
            cond, uncond, vectors = HOST.contexts(params)
            if sum(map(len, texts)) != cond.shape[0] or len(current.images) != len(texts):
                raise PersresError("another extension changed the number of prompts.")
            at = params.denoiser.step, params.denoiser.total_steps or 0
            self._hires = hires
            self._words.renew()
            self._marks.renew()
            self._sampling.evaluate(HOST.model(), current, texts, cond, uncond, *at, vectors, self._begun(hires))
        except Exception as error:
            # the WebUI would go on with what the last evaluation left
            self._give_up(self._sampling, str(error) if isinstance(error, PersresError) else repr(error))
            if not isinstance(error, PersresError):
                raise

    def _begun(self, hires: bool) -> float:
        """The part of a sampling from pure noise that this pass leaves out: a picture is at hand."""
        if not hires and getattr(self.p, "init_images", None) is None:
            return 0.0
        return 1 - min(max(float(getattr(self.p, "denoising_strength", None) or 0), 0), 1)

    def _give_up(self, sampling: Sampling, why: str) -> None:
        sampling.close()
        for loaded in dict.fromkeys(loaded for current in self._passes.values() for loaded in current.loaded):
            self._reasons.fail(self._where(), loaded, why)

    def _texts(self, hires: bool):
        """Each image's parts with their schedules, for the conds that are sampled now."""
        p = self.p
        prompts, steps, hires_steps = p.prompts, p.firstpass_steps, None
        if hires:
            prompts, hires_steps = p.hr_prompts, HOST.hires_steps(p)
        key = (hires, tuple(prompts), steps, hires_steps)
        if self._texts_for[0] != key:
            self._texts_for = key, parts_of(prompts, steps, hires_steps)
        return self._texts_for[1]

    # -- afterwards

    def add_overlay(self, image) -> None:
        """Keep an overlay of the masks of the image that the WebUI just finished."""
        p = self.p
        recorder, attached = self._masks
        current = self._passes.get(self._hires) or self._passes.get(False)
        if recorder is None or current is None:
            return
        index = p.batch_index
        own = [
            attached.index(concept.loaded)
            for concept in current.images[index]
            if concept.loaded in attached and current.decided(concept)[0]
        ]
        if own:
            self.overlays.append((overlay(image, recorder.mean()[index][own]), HOST.infotext(p, index), p.seeds[index]))


def wrap(p) -> None:
    """Let the job of p see the beginning and the end of some of its calls."""
    if all(getattr(getattr(p, name), "persres", None) is p for name in WRAPPED):
        return
    unwrap(p)
    for name in WRAPPED:
        _wrap(p, name)


def _wrap(p, name: str) -> None:
    original = getattr(p, name)

    @functools.wraps(original)
    def call(*args, **kwargs):
        job = Job.of(p)
        return original(*args, **kwargs) if job is None else getattr(job, name)(original, *args, **kwargs)

    call.persres = p  # type: ignore[attr-defined]  # a mark of ours, for `unwrap`
    setattr(p, name, call)


def unwrap(p) -> None:
    for name in WRAPPED:
        if hasattr(p.__dict__.get(name), "persres"):
            delattr(p, name)
