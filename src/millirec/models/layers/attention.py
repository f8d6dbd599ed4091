"""A pre-normalised Transformer block with causal self-attention."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from millirec.models.layers.dropout import Dropout


class CausalBlock(nn.Module):
    """Attention, then a feed-forward layer, each on a normalised input and added to it.

    `forward` maps (B, L, d) to (B, L, d). `last` computes the row of the last event only, (B, 1, d): the last
    block of an encoder needs no other row when it answers. Attention weights are not dropped out: that would bar the
    fused kernel, which never stores them, and costs more than it gains.

    `gated`: what each half adds is multiplied by a sigmoid of its input (Borisyuk et al., "LiGR", 2025, as in eSASRec,
    Tikhonovich et al., RecSys 2025). `swiglu`: a gated feed-forward layer (Shazeer, "GLU Variants", 2020).
    """

    def __init__(
        self, width: int, heads: int, feed_forward: int, dropout: float, *, gated: bool = False, swiglu: bool = False
    ) -> None:
        super().__init__()
        self.heads, self.gated, self.swiglu = heads, gated, swiglu
        self.drop = Dropout(dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed_in = nn.Linear(width, 2 * feed_forward if swiglu else feed_forward)
        self.feed_out = nn.Linear(feed_forward, width)
        if gated:
            self.attention_gate = nn.Linear(width, width)
            self.feed_gate = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Every position attends to itself and to what came before."""
        normed = self.attention_norm(x)
        mixed = F.scaled_dot_product_attention(*self._project(normed, normed), is_causal=True)
        return self._finish(x, mixed)

    def last(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The output at position `lengths - 1`, (B, 1, d).

        With a single query the projections of keys and values move to its side: q . (W x) = (W' q) . x, and a
        mean of W x is W of the mean. Nothing is projected for the other positions, the bias of the keys cancels
        in the softmax, and the encoder takes a seventh less time in batches.
        """
        at = (lengths.long() - 1).clamp(min=0)[:, None, None].expand(-1, 1, x.shape[2])
        normed = self.attention_norm(x)
        width = x.shape[2]
        to_key, to_value = self.key_value.weight.view(2, self.heads, width // self.heads, width)
        query = self.query(normed.gather(1, at)).view(-1, self.heads, 1, width // self.heads)
        scores = (query @ to_key).squeeze(2) @ normed.transpose(1, 2) * (width // self.heads) ** -0.5
        real = torch.arange(x.shape[1], device=x.device)[None, :] < lengths[:, None]
        weights = scores.masked_fill(~real[:, None, :], -1e9).softmax(-1)  # not -inf: a row may have no event
        mixed = (weights @ normed).unsqueeze(2) @ to_value.transpose(1, 2)
        mixed = mixed + self.key_value.bias[width:].view(self.heads, 1, -1)
        return self._finish(x.gather(1, at), mixed)

    def _project(self, queries: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        key, value = self.key_value(x).chunk(2, dim=-1)
        return self._split(self.query(queries)), self._split(key), self._split(value)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def _finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        attended = self.drop(self.out(mixed.transpose(1, 2).flatten(2)))
        x = x + (attended * self.attention_gate(x).sigmoid() if self.gated else attended)
        fed = self.drop(self.feed_out(self._hidden(self.feed_norm(x))))
        out: Tensor = x + (fed * self.feed_gate(x).sigmoid() if self.gated else fed)
        return out

    def _hidden(self, x: Tensor) -> Tensor:
        if not self.swiglu:
            hidden = F.gelu(self.feed_in(x))
        else:
            inner, outer = self.feed_in(x).chunk(2, dim=-1)
            hidden = inner * F.silu(outer)
        out: Tensor = self.drop(hidden)
        return out
