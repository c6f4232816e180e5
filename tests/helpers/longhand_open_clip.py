"""OpenCLIP's text transformer of torch's own attention, under OpenCLIP's names."""

import torch
from torch import nn


class OpenClip(nn.Module):
    """ids (b, n) -> the last layer's state behind the final norm. Its gelu is CLIP's quick one."""

    def __init__(self, vocab_size: int, context_length: int, width: int, heads: int, layers: int):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(self.block(width, heads) for _ in range(layers))})
        self.ln_final = nn.LayerNorm(width)

    @staticmethod
    def block(width: int, heads: int) -> nn.ModuleDict:
        mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})
        attention = nn.MultiheadAttention(width, heads, batch_first=True)
        return nn.ModuleDict({"ln_1": nn.LayerNorm(width), "attn": attention, "ln_2": nn.LayerNorm(width), "mlp": mlp})

    def forward(self, ids):
        return self.ln_final(self.states(ids)[-1])

    def states(self, ids: torch.Tensor) -> list[torch.Tensor]:
        """What each layer gives."""
        given = []
        x = self.token_embedding(ids) + self.positional_embedding
        later = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
        for block in self.transformer["resblocks"]:
            h = block["ln_1"](x)
            x = x + block["attn"](h, h, h, need_weights=False, attn_mask=later)[0]
            h = block["mlp"]["c_fc"](block["ln_2"](x))
            x = x + block["mlp"]["c_proj"](h * torch.sigmoid(1.702 * h))
            given.append(x)
        return given
