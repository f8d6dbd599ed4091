"""The loss of `soft.py` where the catalogue is too large to be scored: listed items, the true one, and a sample."""

from typing import Any

import torch
from torch import Tensor

from millirec.train.losses.ready import Ready
from millirec.train.losses.soft import Blend, Listed
from millirec.train.negatives import Negatives

# Numbers of gathered vectors in work at a time, see contrast.py.
_CHUNK_ELEMENTS = 1 << 20


def soft_sampled_softmax(
    hidden: Tensor, items: Tensor, wanted: Tensor, soft: Listed, negatives: Negatives, blend: Blend
) -> Tensor:
    """The mean loss over the items that a question lists, the true item, and negatives that all questions share.

    `hidden` (N, d); `wanted` int64 (N,), `soft.rows` and `negatives.rows` int64 (m,) are rows of `items` (., d). Each
    negative counts as often as it was drawn, divided by how often it was expected to be, and not at all where the
    question lists it: what the softmax divides by is then an unbiased estimate of its sum over the catalogue (Bengio
    and Senecal, 2008), in which the items that matter most are exact.
    """
    loss: Tensor = _SoftSampled.apply(hidden, items, wanted, soft, negatives, blend)  # type: ignore[no-untyped-call]
    return loss


class _SoftSampled(Ready):
    """As `contrast._Contrast`. Columns of logits: listed items, the true one, negatives."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, items: Tensor, wanted: Tensor, soft: Listed, negatives: Negatives, blend: Blend
    ) -> Tensor:
        n, listed = len(hidden), soft.rows.shape[1]
        grad_hidden, grad_items = torch.empty_like(hidden), torch.zeros_like(items)
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        shared = _Shared(items, negatives, listed + 1)
        size = max(1, min(n, _CHUNK_ELEMENTS // ((listed + 1) * items.shape[1] + len(negatives.rows))))
        for start in range(0, n, size):
            span = slice(start, min(n, start + size))
            own = torch.cat([soft.rows[span], wanted[span, None]], 1)
            vectors, part = items[own], hidden[span]
            logits = hidden.new_empty(len(part), listed + 1 + len(negatives.rows))
            logits[:, : listed + 1] = (vectors @ part[:, :, None]).squeeze(2)
            shared.score(part, own, logits)
            target = _column(own, logits)
            total += blend(logits, soft.chances[span].to(logits.dtype), target, shared.shift).double()
            grad = logits[:, : listed + 1]
            grad_hidden[span] = (grad[:, None, :] @ vectors).squeeze(1)
            grad_items.index_add_(0, own.flatten(), (grad[:, :, None] * part[:, None, :]).flatten(0, 1))
            shared.learn(part, logits, grad_hidden[span])
        grad_items.index_add_(0, negatives.rows, shared.grad)
        Ready.keep(ctx, grad_hidden, grad_items)
        return (total / n).to(hidden.dtype)


def _column(own: Tensor, logits: Tensor) -> Tensor:
    """Where the true item stands, int64 (n, 1): where it is listed, that column counts and its own does not."""
    last = own.shape[1] - 1
    found = own[:, :-1] == own[:, -1:]
    twice = found.any(1)
    logits[twice, last] = -torch.inf
    return torch.where(twice, found.int().argmax(1), last)[:, None]


class _Shared:
    """Logits of the negatives, in the columns from `first` on, and their gradients."""

    def __init__(self, items: Tensor, negatives: Negatives, first: int) -> None:
        self._vectors, self._first = items[negatives.rows], first
        self.grad = torch.zeros_like(self._vectors)
        self._ordered, self._order = negatives.rows.sort()
        weight = negatives.counts.log() - negatives.log_expected
        self.shift = torch.cat([weight.new_zeros(first), weight]).to(items.dtype)

    def score(self, part: Tensor, own: Tensor, logits: Tensor) -> None:
        others = logits[:, self._first :]
        torch.mm(part, self._vectors.T, out=others)
        at = torch.searchsorted(self._ordered, own).clamp_(max=len(self._ordered) - 1)
        question, place = (self._ordered[at] == own).nonzero(as_tuple=True)
        others[question, self._order[at[question, place]]] = -torch.inf

    def learn(self, part: Tensor, logits: Tensor, grad_hidden: Tensor) -> None:
        grad = logits[:, self._first :]
        grad_hidden.addmm_(grad, self._vectors)
        self.grad.addmm_(grad.T, part)
