"""Text encoders and users' embeddings in a WebUI that keeps ldm's and sgm's classes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterable, Iterator, Sequence

import torch
from modules import devices, prompt_parser
from torch import nn

from ...conditioning import Conditioning
from .texts import Texts


class LdmTexts(Texts):
    def text_encoder(self, model):
        return model.cond_stage_model

    def readers(self, model) -> dict[str, nn.Module]:
        """What reads texts, by the names of `residual.ENCODERS`; of SDXL's refiner the second one alone."""
        encoders = getattr(model.cond_stage_model, "embedders", [model.cond_stage_model])
        encoders = [encoder for encoder in encoders if hasattr(encoder, "encode_embedding_init_text")]
        return {"": encoders[0]} if len(encoders) == 1 else dict(zip(("clip_l", "clip_g"), encoders))

    def encoders(self, model) -> dict[str, nn.Module]:
        """The networks in them, by the same names."""
        return self.readers(model)

    def on_reading(self, reader, before: Callable, after: Callable) -> list:
        """Hooks on a reader's calls, as on a module's: at its begin and at its end, however that comes."""
        return [reader.register_forward_pre_hook(before), reader.register_forward_hook(after, always_call=True)]

    def token_tables(self, model) -> dict[str, nn.Embedding]:
        """The text encoders' tables of tokens, by the same names."""
        tables = {}
        for name, encoder in self.readers(model).items():
            own = encoder.wrapped  # with transformers' model, or open_clip's
            own = own.transformer.text_model.embeddings if hasattr(own, "transformer") else own.model
            # the WebUI's layer for the users' embeddings is around the table
            tables[name] = getattr(own.token_embedding, "wrapped", own.token_embedding)
        return tables

    def token_vectors(self, model, text: str, most: int) -> dict[str, torch.Tensor]:
        """A text's vectors (n, d) in the model's own tables, by the same names."""
        ids = self.tokens(self.text_encoder(model), text)[:most]
        return {
            name: self.placed(table(torch.tensor(ids, dtype=torch.long, device=table.weight.device)))
            for name, table in self.token_tables(model).items()
        }

    def placed(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors.detach().to(devices.device, torch.float32)

    def conditioning(self, model, texts: Sequence[str], side: int, learning: bool = False) -> Conditioning:
        """What the UNet is told of these texts for pictures of this side; of an empty one what the WebUI makes of an
        empty negative prompt. learning: with the graph that leads to the tokens' vectors."""
        readers = self.readers(model)
        given = prompt_parser.SdConditioning(texts, width=side, height=side)
        with torch.set_grad_enabled(learning), _learning(readers.values() if learning else ()):
            found = self.read(model, given)
            if not isinstance(found, dict):
                return Conditioning(found)
            context, vectors = found["crossattn"], found["vector"]
            empty = torch.tensor([not text for text in texts], device=context.device)[:, None]
            if empty.any():
                negative = prompt_parser.SdConditioning([""], True, width=side, height=side)
                zeros = self.read(model, negative)["vector"]
                # of their own length, which the others give
                context, vectors = context.masked_fill(empty[..., None], 0), torch.where(empty, zeros, vectors)
        return Conditioning(context, vectors)

    def read(self, model, texts):
        """What the model's text encoders make of texts."""
        return model.get_learned_conditioning(texts)

    # -- the users' embeddings

    def embeddings(self) -> list[dict[int, list]]:
        """First token -> (tokens, embedding) of each name, in each of the text encoders that look for themselves; what
        a prompt's tokens are looked up in, the first that matches. The list that the WebUI shows its users is another,
        and not ours to write in."""
        raise NotImplementedError

    def embedding_at(self, tokens: list[int], place: int) -> tuple[str, int, int] | None:
        """(name, vectors, tokens of its name) of the embedding that is read there, or None."""
        for ids, embedding in self.embeddings()[0].get(tokens[place], ()):
            if tokens[place : place + len(ids)] == list(ids):
                return embedding.name, int(embedding.vectors), len(ids)
        return None

    def embedding(self, name: str, vectors: dict[str, torch.Tensor]):
        """One for `embeddings`, of vectors by the names of `residual.ENCODERS`."""
        raise NotImplementedError

    def hide_embeddings(self, names: Container[str]) -> None:
        """Take those of these names out of what the text encoder gives to infotexts; here it names only users' own."""

    def comments(self) -> list[str]:
        """What the text encoder tells of a generation; may be changed."""
        raise NotImplementedError


@contextlib.contextmanager
def _learning(readers: Iterable[nn.Module]) -> Iterator[None]:
    """SDXL's conditioner follows a text encoder with a graph only where that is trainable."""
    before = [(reader, reader.is_trainable) for reader in readers if hasattr(reader, "is_trainable")]
    try:
        for reader, _ in before:
            reader.is_trainable = True
        yield
    finally:
        for reader, trainable in before:
            reader.is_trainable = trainable
