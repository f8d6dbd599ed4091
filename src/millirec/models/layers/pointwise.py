"""Pointwise attention: SiLU of each score in place of a softmax over them, with a bias for place and time.

Zhai et al., "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
Recommendations", ICML 2024. The gradient is written out: scores are kept once, the tables' gradients are counted
instead of scattered, and pairs whose event lies in the future are mostly skipped.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from millirec.models.layers.clock import BUCKETS
from millirec.models.layers.dropout import Dropout
from millirec.models.layers.parts import Group, Part, Slice, columns, outputs, rows
from millirec.models.layers.sizes import head_size

_FUTURE = -1e4  # SiLU and its slope are 0 there
_STRIPES = 4


class Stripe(NamedTuple):
    """Some rows of the triangle of pairs, and the columns that are not all in their future.

    `bucket` int64 (B, rows, columns): bucket of the time from event j to question i, `BUCKETS` where j follows i.
    `distance` int64 (rows, columns): i - j, 0 where j follows i.
    """

    rows: slice
    bucket: Tensor
    distance: Tensor


def stripes(bucket: Tensor, distance: Tensor, count: int = _STRIPES) -> list[Stripe]:
    """The pairs of `bucket` (B, L, L) and `distance` (L, L) in stripes of rows; four hold five eighths of them."""
    length = bucket.shape[1]
    height = -(-length // count)
    cuts = [(start, min(start + height, length)) for start in range(0, length, height)]
    return [
        Stripe(slice(start, end), bucket[:, start:end, :end].contiguous(), distance[start:end, :end].contiguous())
        for start, end in cuts
    ]


class _Pointwise(torch.autograd.Function):
    """silu(q k' + time[bucket] + place[distance]) v for q, k, v (B, H, L, d), a stripe of rows at a time."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        query, key, value, time, place, pairs = given
        table = torch.cat([time, time.new_full((1,), _FUTURE)])
        out, kept = torch.empty_like(value), []
        for stripe in pairs:
            end = stripe.rows.stop
            bias = torch.take(table, stripe.bucket).add_(torch.take(place, stripe.distance))
            scores = (query[:, :, stripe.rows] @ key[:, :, :end].transpose(2, 3)).add_(bias[:, None])
            out[:, :, stripe.rows] = F.silu(scores) @ value[:, :, :end]
            kept.append(scores)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.pairs, ctx.sizes = pairs, (len(time), len(place))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        grad_query, grad_key, grad_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        time, place = query.new_zeros(ctx.sizes[0] + 1), query.new_zeros(ctx.sizes[1])
        for stripe, scores in zip(ctx.pairs, kept, strict=True):
            rows, end = stripe.rows, stripe.rows.stop
            grad_out = grads[0][:, :, rows]
            grad_value[:, :, :end] += F.silu(scores).transpose(2, 3) @ grad_out
            grad = torch.ops.aten.silu_backward(grad_out @ value[:, :, :end].transpose(2, 3), scores)
            grad_query[:, :, rows] = grad @ key[:, :, :end]
            grad_key[:, :, :end] += grad.transpose(2, 3) @ query[:, :, rows]
            pair = grad.sum(1)
            time += torch.bincount(stripe.bucket.view(-1), pair.view(-1), len(time))
            place += torch.bincount(stripe.distance.view(-1), pair.sum(0).view(-1), len(place))
        return grad_query, grad_key, grad_value, time[:-1], place, None


class PointwiseBlock(nn.Module):
    """One HSTU layer: gated pointwise attention, added to its input; (B, L, d) to (B, L, d)."""

    def __init__(self, width: int, heads: int, max_length: int, dropout: float, head_dim: int | None = None) -> None:
        super().__init__()
        self.heads, inner = heads, heads * head_size(width, heads, head_dim)
        self.drop = Dropout(dropout)
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 4 * inner, bias=False)  # gate, value, query, key
        self.mixed_norm = nn.LayerNorm(inner)
        self.out = nn.Linear(inner, width)
        self.time = nn.Parameter(torch.zeros(BUCKETS))
        self.place = nn.Parameter(torch.zeros(max_length))

    def forward(self, x: Tensor, pairs: list[Stripe]) -> Tensor:
        """With one stripe of all rows the plain formula is computed: what the exported graph holds."""
        gate, value, query, key = self._project(x)
        query, key, value = self._split(query), self._split(key), self._split(value)
        if len(pairs) > 1:
            mixed = _Pointwise.apply(query, key, value, self.time, self.place, pairs)  # type: ignore[no-untyped-call]
        else:
            bias = self._bias(pairs[0].bucket, pairs[0].distance)
            mixed = F.silu(query @ key.transpose(2, 3) + bias[:, None]) @ value
        return self._finish(x, gate, mixed)

    def last(self, x: Tensor, bucket: Tensor, distance: Tensor, at: Tensor) -> Tensor:
        """The output at the places `at` int64 (B,) only, (B, 1, d), for their `bucket` (B, 1, L) and `distance`."""
        where = at[:, None, None].expand(-1, 1, x.shape[2])
        _, value, _, key = self._project(x)
        newest = x.gather(1, where)
        gate, _, query, _ = self._project(newest)
        scores = self._split(query) @ self._split(key).transpose(2, 3)
        weights = F.silu(scores + self._bias(bucket, distance)[:, None])
        return self._finish(newest, gate, weights @ self._split(value))

    def _bias(self, bucket: Tensor, distance: Tensor) -> Tensor:
        table = torch.cat([self.time, self.time.new_full((1,), _FUTURE)])
        return table[bucket] + self.place[distance]

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        gate, value, query, key = F.silu(self.project(self.norm(x))).chunk(4, dim=-1)
        return gate, value, query, key

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def _finish(self, x: Tensor, gate: Tensor, mixed: Tensor) -> Tensor:
        mixed = self.mixed_norm(mixed.transpose(1, 2).flatten(2))
        out: Tensor = x + self.out(self.drop(mixed * gate))
        return out


OUTPUTS = ("out.weight", "out.bias")
"""The parameters of a block that make what it adds to its input."""


def block_parts(width: int, heads: int, size: int, blocks: int) -> tuple[dict[str, Part], Group]:
    """Heads of `size` numbers in `blocks` blocks, and where the width stands in all of them."""
    numbers = range(blocks)
    parts = {"heads": Part(heads, tuple(_heads(f"blocks.{i}.", heads, size) for i in numbers))}
    return parts, tuple(piece for i in numbers for piece in _width(f"blocks.{i}.", width))


def _heads(block: str, heads: int, size: int) -> Group:
    return (
        rows(f"{block}project.weight", heads, repeats=4, width=size),
        *outputs(f"{block}mixed_norm", heads, width=size),
        columns(f"{block}out.weight", heads, width=size, sends=True),
    )


def _width(block: str, width: int) -> Iterable[Slice]:
    yield from outputs(f"{block}norm", width)
    yield columns(f"{block}project.weight", width)
    yield from outputs(f"{block}out", width, sends=True)
