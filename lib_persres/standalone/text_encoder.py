"""The text encoders: transformers' CLIP, with CLIP's weights or OpenCLIP's, read as SD1, SD2 and SDXL read them."""

import torch
from torch import nn

from .open_clip import PROJECTION
from .tokenizer import Tokenizer

TEXT_KEYS = (
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads max_position_embeddings "
    "hidden_act layer_norm_eps projection_dim initializer_range initializer_factor attention_dropout "
    "bos_token_id eos_token_id pad_token_id"
).split()
TEXT_DEFAULTS = {
    "vocab_size": 49408,
    "max_position_embeddings": Tokenizer.length,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 1,
}


class TextEncoder(nn.Module):
    """A text transformer: ids (b,77) -> a hidden state (b,77,d).

    config: hidden_size, num_hidden_layers, num_attention_heads, intermediate_size and what differs from
    SD1's other values; keys that a CLIP config.json has besides are ignored. skip: how many layers before the last one
    it is read. normed: whether the final layer norm comes after it. pooled: the width of what it gives for the whole
    text besides, 0 for nothing. padding: the token behind a text's end; None: the end's own.
    """

    def __init__(
        self,
        config: dict,
        tokenizer: Tokenizer,
        skip: int = 0,
        normed: bool = True,
        pooled: int = 0,
        padding: int | None = None,
    ):
        super().__init__()
        from transformers import CLIPTextConfig, CLIPTextModel  # takes seconds; not everyone here needs it

        config = config.get("text_config") or config
        self.config = {**TEXT_DEFAULTS, **{key: config[key] for key in TEXT_KEYS if key in config}}
        self.transformer = CLIPTextModel(CLIPTextConfig(**self.config))
        self.tokenizer, self.skip, self.normed, self.padding = tokenizer, skip, normed, padding
        width = self.config["hidden_size"]
        self.text_projection = nn.Parameter(torch.empty(width, pooled)) if pooled else None

    @property
    def token_embedding(self) -> nn.Embedding:
        return self.transformer.get_input_embeddings()

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        """Padded ids (b,77), on the encoder's device; what is past 75 tokens is cut off."""
        return self.padded([self.tokenizer.encode(text) for text in texts])

    def padded(self, rows: list[list[int]]) -> torch.Tensor:
        """The same of texts that are ids already."""
        ids = [self.tokenizer.pad(row, self.padding) for row in rows]
        return torch.tensor(ids, dtype=torch.long, device=next(self.parameters()).device)

    def forward(self, ids):
        return self.read(ids)[0]

    def read(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The hidden state, and what stands for the whole text (b,pooled): the last state of its end, projected."""
        inside = self.skip > 0 or not self.normed
        out = self.transformer(input_ids=ids, output_hidden_states=inside)
        hidden = out.last_hidden_state
        if inside:
            hidden = out.hidden_states[-1 - self.skip]
            if self.normed:
                hidden = getattr(self.transformer, "text_model", self.transformer).final_layer_norm(hidden)
        if self.text_projection is None:
            return hidden, None
        ends = (ids == self.tokenizer.eos).int().argmax(-1)  # the first
        rows = torch.arange(len(ids), device=ids.device)
        return hidden, out.last_hidden_state[rows, ends] @ self.text_projection

    def take(self, state: dict[str, torch.Tensor], device, dtype: torch.dtype) -> None:
        """Come from the meta device with these weights, see `load_sd_state_dict`."""
        self.to_empty(device=device).to(dtype)
        for module in self.transformer.modules():
            if "position_ids" in module._buffers:  # a constant
                module.position_ids = torch.arange(Tokenizer.length, device=device)[None]
        self.load_sd_state_dict(state)

    def sd_state_dict(self) -> dict[str, torch.Tensor]:
        """The weights under SD1's names, `transformer.text_model.…`, under any release of transformers."""
        state = {
            "transformer.text_model." + _bare(name): tensor
            for name, tensor in self.transformer.state_dict().items()
            if not name.endswith("position_ids")  # a constant; a buffer, saved or not, by release
        }
        return state if self.text_projection is None else {**state, PROJECTION: self.text_projection}

    def load_sd_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take weights named `transformer.text_model.…`, or `transformer.…` as the oldest files have it.

        Raises RuntimeError, as nn.Module.load_state_dict does, where names or shapes differ.
        """
        state = dict(state)
        if self.text_projection is not None:
            self.text_projection.data.copy_(state.pop(PROJECTION))
        weights = {_bare(name.removeprefix("transformer.")): tensor for name, tensor in state.items()}
        weights = {name: tensor for name, tensor in weights.items() if not name.endswith("position_ids")}
        for name, tensor in self.transformer.state_dict().items():
            if name.endswith("position_ids"):
                weights[_bare(name)] = tensor
        own = {_bare(name): name for name in self.transformer.state_dict()}
        self.transformer.load_state_dict({own.get(name, name): tensor for name, tensor in weights.items()})


def _bare(name: str) -> str:
    """A text weight's name without `text_model.`, which transformers 4 has and transformers 5 has not."""
    return name.removeprefix("text_model.")
