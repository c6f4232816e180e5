"""An evaluation of the WebUI's denoiser: its rows, and what the sampler shows. The same in every WebUI of the line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from modules import processing, shared


class Evaluations:
    def row_order(self, parts: Sequence[int]) -> list[tuple[int, int | None]]:
        """(image, part of its prompt, or None for the unconditional row): each row's place in `contexts`.

        parts: how many each image has.
        """
        rows = [(image, part) for image, count in enumerate(parts) for part in range(count)]
        return [*rows, *((image, None) for image in range(len(parts)))]

    def contexts(self, params) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Of the parameters of on_cfg_denoiser: cond (Σ parts, n, d), uncond (images, m, d), in the order of the rows,
        and the vectors (Σ parts, m) that SDXL's UNet is given beside cond."""
        cond, uncond = params.text_cond, params.text_uncond
        vectors = cond["vector"] if isinstance(cond, dict) else None
        cond, uncond = (each["crossattn"] if isinstance(each, dict) else each for each in (cond, uncond))
        return cond, cond[:0] if uncond is None else uncond, vectors

    def conditional(self, kwargs: Mapping, rows: int) -> list[bool] | None:
        """Whether each row of a call of the UNet is a conditional one, where the call says it, as some of the line do.
        kwargs: of the call."""
        kinds = kwargs.get("transformer_options", {}).get("cond_or_uncond")
        if not kinds or rows % len(kinds):
            return None
        return [kind == 0 for kind in kinds for _ in range(rows // len(kinds))]

    def conditionally(self, kwargs: Mapping) -> dict:
        """The same for a call whose rows are all conditional ones."""
        options = kwargs.get("transformer_options")
        return {**kwargs, "transformer_options": {**options, "cond_or_uncond": [0]}} if options else dict(kwargs)

    def latent(self) -> torch.Tensor | None:
        """What the sampler showed last."""
        return shared.state.current_latent

    def infotext(self, p, index: int) -> str:
        """Of an image of the batch that is at work."""
        return processing.create_infotext(
            p, p.all_prompts, p.all_seeds, p.all_subseeds, [], p.iteration, position_in_batch=index
        )
