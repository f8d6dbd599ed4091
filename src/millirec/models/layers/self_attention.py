"""Self-attention: torch's fused kernels, and a faster way to train on a processor."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F  # noqa: N812

_KEPT = 2**25  # weights of pairs: beyond, keeping them takes more memory than their speed is worth
_Spans = list[tuple[int, int]]  # blocks of queries as (start, stop); what lies behind `stop` is out of their sight
_BLOCK = 80  # queries that share their products; each block leaves out what lies in its future


def causal_attention(query: Tensor, key: Tensor, value: Tensor, *, training: bool) -> Tensor:
    """Attention of each place to itself and to those before it: (B, H, L, D) from three such tensors.

    In training on a processor plain matrix products over blocks of queries replace the fused kernel and keep the
    weights for the way back: two thirds of its time, in bfloat16 half. Long histories go on with the fused kernel.
    """
    if not training or not _kept(query):
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)
    return _by_blocks(query, key, value, None)


def open_attention(query: Tensor, key: Tensor, value: Tensor, real: Tensor | None, *, training: bool) -> Tensor:
    """As `causal_attention`, with all places in sight that are `real`, bool (B, L), at least one a row; None = all."""
    if not training or not _kept(query):
        mask = None if real is None else real[:, None, None, :].expand(-1, 1, query.shape[2], -1)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    places = query.shape[2]
    real = torch.ones((query.shape[0], places), dtype=torch.bool) if real is None else real
    unseen = torch.zeros(real.shape, dtype=query.dtype).masked_fill_(~real, -torch.inf)
    return _by_blocks(query, key, value, unseen[:, None, :])


def _kept(query: Tensor) -> bool:
    batch, heads, places = query.shape[:3]
    return query.device.type == "cpu" and batch * heads * places * places <= _KEPT


def _by_blocks(query: Tensor, key: Tensor, value: Tensor, unseen: Tensor | None) -> Tensor:
    with torch.autocast("cpu", enabled=False):  # it would take the softmax back to 32 bits
        mixed: Tensor = _Blockwise.apply(query, key, value, unseen)  # type: ignore[no-untyped-call]
    return mixed


class _Blockwise(torch.autograd.Function):
    """Softmax(Q K' / sqrt(D)) V head by head and block by block, with its gradients written out.

    `unseen` is added to the scores, (B, 1, L); without it the future is left out. What each product reads is copied to
    lie in one piece: oneDNN would copy it for every product anew.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, query: Tensor, key: Tensor, value: Tensor, unseen: Tensor | None) -> Tensor:
        out, kept = _like(query), []
        blocks = _blocks(query.shape[2], causal=unseen is None)
        for head in range(query.shape[1]):
            for start, stop in blocks:
                q = query[:, head, start:stop].contiguous()
                k, v = (x[:, head, :stop].contiguous() for x in (key, value))
                scores = _scaled(q, k.transpose(1, 2), q.shape[2])
                if unseen is None:
                    scores[:, :, start:] += _future(scores[:, :, start:])
                else:
                    scores += unseen
                weights = scores.softmax(-1)
                out[:, head, start:stop] = torch.bmm(weights, v)
                kept += [q, k, v, weights]
        ctx.save_for_backward(*kept)
        ctx.blocks = blocks  # type: ignore[attr-defined]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kept: Sequence[Tensor] = ctx.saved_tensors  # type: ignore[attr-defined]
        blocks: _Spans = ctx.blocks  # type: ignore[attr-defined]
        n = 4 * len(blocks)
        to_query, to_key, to_value = _like(gradient), _like(gradient), _like(gradient)
        for head in range(gradient.shape[1]):
            of_head = blocks, kept[head * n : (head + 1) * n]
            to_key[:, head], to_value[:, head] = _backward(gradient[:, head], *of_head, to_query[:, head])
        return to_query, to_key, to_value, None


def _backward(gradient: Tensor, blocks: _Spans, kept: Sequence[Tensor], to_query: Tensor) -> tuple[Tensor, Tensor]:
    """Of one head: fill in the gradient of its queries, return those of its keys and values, (B, L, D)."""
    size = gradient.shape[2]
    sums: list[Tensor] = []
    for number in reversed(range(len(blocks))):  # the last block sees all places, the others add to it
        start, stop = blocks[number]
        q, k, v, weights = kept[4 * number : 4 * number + 4]
        grad = gradient[:, start:stop].contiguous()
        to_weights = torch.bmm(grad, v.transpose(1, 2))
        to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
        to_query[:, start:stop] = _scaled(to_scores, k, size)
        of_block = _scaled(to_scores.transpose(1, 2), q, size), torch.bmm(weights.transpose(1, 2), grad)
        if not sums:
            sums = list(of_block)
            continue
        for total, part in zip(sums, of_block, strict=True):
            total[:, :stop] += part
    return sums[0], sums[1]


def _scaled(a: Tensor, b: Tensor, size: int) -> Tensor:
    """a @ b / sqrt(size) in one go."""
    return torch.baddbmm(torch.empty((), dtype=a.dtype), a, b, beta=0, alpha=size**-0.5)


def _future(scores: Tensor) -> Tensor:
    return torch.full(scores.shape[1:], -torch.inf, dtype=scores.dtype).triu(1)


def _blocks(places: int, *, causal: bool) -> _Spans:
    """`places` in blocks of nearly equal size; with all places in sight nothing is saved by more than one."""
    size = -(-places // -(-places // _BLOCK)) if causal else places
    return [(start, min(start + size, places)) for start in range(0, places, size)]


def _like(x: Tensor) -> Tensor:
    """(B, H, L, D), laid out so that merging the heads copies nothing."""
    batch, heads, places, size = x.shape
    return torch.empty((batch, places, heads, size), dtype=x.dtype).transpose(1, 2)
