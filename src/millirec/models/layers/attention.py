"""A pre-normalised Transformer block with causal self-attention."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from millirec.models.layers.dropout import Dropout
from millirec.models.layers.parts import Group, Part, Slice, columns, outputs
from millirec.models.layers.self_attention import causal_attention


class Shape(NamedTuple):
    """Sizes of a block: `width` of its input, `heads` of `head_dim` numbers each, `feed_forward` hidden neurons.

    `gated`, `swiglu`: see `CausalBlock`.
    """

    width: int
    heads: int
    head_dim: int
    feed_forward: int
    gated: bool = False
    swiglu: bool = False


class CausalBlock(nn.Module):
    """Attention, then a feed-forward layer, each on a normalised input and added to it.

    `forward` maps (B, L, d) to (B, L, d). `last` computes the row of the last event only, (B, 1, d): the last
    block of an encoder needs no other row when it answers. Attention weights are not dropped out: that would bar the
    fused kernel and cost more than it gains.

    `gated`: what each half adds is multiplied by a sigmoid of its input (Borisyuk et al., "LiGR", 2025, as in eSASRec,
    Tikhonovich et al., RecSys 2025). `swiglu`: a gated feed-forward layer (Shazeer, "GLU Variants", 2020).
    """

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        width, feed_forward = shape.width, shape.feed_forward
        self.heads, self.head_dim, self.gated, self.swiglu = shape.heads, shape.head_dim, shape.gated, shape.swiglu
        self.drop = Dropout(dropout)
        inner = shape.heads * shape.head_dim
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, inner)
        self.key_value = nn.Linear(width, 2 * inner)
        self.out = nn.Linear(inner, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed_in = nn.Linear(width, 2 * feed_forward if shape.swiglu else feed_forward)
        self.feed_out = nn.Linear(feed_forward, width)
        if shape.gated:
            self.attention_gate = nn.Linear(width, width)
            self.feed_gate = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Every position attends to itself and to what came before."""
        normed = self.attention_norm(x)
        mixed = causal_attention(*self._project(normed, normed), training=self.training)
        return self._finish(x, mixed)

    def last(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The output at position `lengths - 1`, (B, 1, d).

        With a single query the projections of keys and values move to its side: q . (W x) = (W' q) . x, and a
        mean of W x is W of the mean. Nothing is projected for the other positions, the bias of the keys cancels
        in the softmax, and the encoder takes a seventh less time in batches.
        """
        at = (lengths.long() - 1).clamp(min=0)[:, None, None].expand(-1, 1, x.shape[2])
        normed = self.attention_norm(x)
        size = self.heads, self.head_dim
        to_key, to_value = self.key_value.weight.view(2, *size, x.shape[2])
        query = self.query(normed.gather(1, at)).view(-1, self.heads, 1, self.head_dim)
        scores = (query @ to_key).squeeze(2) @ normed.transpose(1, 2) * self.head_dim**-0.5
        real = torch.arange(x.shape[1], device=x.device)[None, :] < lengths[:, None]
        weights = scores.masked_fill(~real[:, None, :], -1e9).softmax(-1)  # not -inf: a row may have no event
        mixed = (weights @ normed).unsqueeze(2) @ to_value.transpose(1, 2)
        mixed = mixed + self.key_value.bias.view(2, self.heads, 1, self.head_dim)[1]
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


OUTPUTS = ("out.weight", "out.bias", "feed_out.weight", "feed_out.bias")
"""The parameters of a block that make what it adds to its input."""


def block_parts(shape: Shape, blocks: int) -> tuple[dict[str, Part], Group]:
    """Heads and feed-forward neurons of `blocks` blocks, and where the width stands in all of them."""
    numbers = range(blocks)
    parts = {
        "heads": Part(shape.heads, tuple(_heads(f"blocks.{i}.", shape) for i in numbers)),
        "feed_forward": Part(shape.feed_forward, tuple(_feed_forward(f"blocks.{i}.", shape) for i in numbers)),
    }
    return parts, tuple(piece for i in numbers for piece in _width(f"blocks.{i}.", shape))


def _heads(block: str, shape: Shape) -> Group:
    heads, size = shape.heads, shape.head_dim
    return (
        *outputs(f"{block}query", heads, width=size),
        *outputs(f"{block}key_value", heads, repeats=2, width=size),
        columns(f"{block}out.weight", heads, width=size, sends=True),
    )


def _feed_forward(block: str, shape: Shape) -> Group:
    hidden = outputs(f"{block}feed_in", shape.feed_forward, repeats=2 if shape.swiglu else 1)
    return (*hidden, columns(f"{block}feed_out.weight", shape.feed_forward, sends=True))


def _width(block: str, shape: Shape) -> Iterable[Slice]:
    width = shape.width
    for name in ("attention_norm", "feed_norm"):
        yield from outputs(block + name, width)
    for name in ("out", "feed_out"):
        yield from outputs(block + name, width, sends=True)
    for name in ("query", "key_value", "feed_in"):
        yield columns(f"{block}{name}.weight", width)
    for name in ("attention_gate", "feed_gate") if shape.gated else ():
        yield from outputs(block + name, width)
        yield columns(f"{block}{name}.weight", width)
