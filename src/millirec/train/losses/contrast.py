"""The target against other items, in chunks: the logits never exist as a whole, nor do their gradients."""

from typing import Any, Protocol

import torch
from torch import Tensor

from millirec.train.losses.ready import Ready

# Logits in work at a time: small enough to stay in cache, large enough for the matrix product.
_CHUNK_ELEMENTS = 1 << 18


class Terms(Protocol):
    """The part of a loss that works on logits."""

    def __call__(self, logits: Tensor, span: slice) -> Tensor:
        """The summed loss of rows `span`; its gradient takes the place of `logits`.

        `logits` (n, m + 1): negatives, then the target in the last column; -inf where a negative is not to count.
        """


def contrast(hidden: Tensor, items: Tensor, wanted: Tensor, rows: Tensor, terms: Terms, keep: int = 0) -> Tensor:
    """The mean loss of vectors `hidden` (N, d) that are to find `wanted` int64 (N,), both a row of `items` (., d).

    `rows` int64 (m,): distinct negatives, shared by all, or (N, m): of each. A negative that is the row's target
    does not count. With `keep` > 0 only the `keep` negatives with the highest logits of each row do.

    A chunk of rows is scored, turned into gradients and multiplied back while it is in cache, so memory is O(N d),
    and the time that large allocations cost in page faults is saved. The idea is that of Wijmans et al., "Cut
    Your Losses in Large-Vocabulary Language Models", 2024.
    """
    loss: Tensor = _Contrast.apply(hidden, items, wanted, rows, terms, keep)  # type: ignore[no-untyped-call]
    return loss


class _Contrast(Ready):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, items: Tensor, wanted: Tensor, rows: Tensor, terms: Terms, keep: int
    ) -> Tensor:
        n, width = len(hidden), rows.shape[-1]
        grads = torch.empty_like(hidden), torch.zeros_like(items)
        score = _Shared(items, rows, wanted) if rows.dim() == 1 else _PerRow(items, rows, wanted)
        own = items[wanted]
        size = max(1, _CHUNK_ELEMENTS // (width if rows.dim() == 1 else width * items.shape[1]))
        buffer = hidden.new_empty(min(n, size), width + 1)
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        for start in range(0, n, size):
            span = slice(start, min(n, start + size))
            part, logits = hidden[span], buffer[: span.stop - start]
            score.forward(part, span, logits[:, :-1])
            if 0 < keep < width:
                least = logits[:, :-1].topk(keep, dim=1, sorted=True).values[:, -1:]
                logits[:, :-1].masked_fill_(logits[:, :-1] < least, -torch.inf)
            torch.sum(part * own[span], 1, out=logits[:, -1])
            total += terms(logits, span).double()
            target = logits[:, -1:]
            torch.mul(target, own[span], out=grads[0][span])
            score.backward(part, span, logits[:, :-1], grads)
            own[span] = target * part
        score.finish(grads[1])
        grads[1].index_add_(0, wanted, own)
        Ready.keep(ctx, *grads)
        return (total / n).to(hidden.dtype)


class _Shared:
    """Logits of negatives that all rows share: two matrix products forth and back."""

    def __init__(self, items: Tensor, rows: Tensor, wanted: Tensor) -> None:
        self._rows, self._vectors = rows, items[rows]
        self._grad = torch.zeros_like(self._vectors)
        ordered, order = rows.sort()
        at = torch.searchsorted(ordered, wanted).clamp_(max=len(rows) - 1)
        self._column, self._hit = order[at], ordered[at] == wanted

    def forward(self, part: Tensor, span: slice, out: Tensor) -> None:
        torch.mm(part, self._vectors.T, out=out)
        hit = self._hit[span].nonzero().squeeze(1)
        out[hit, self._column[span][hit]] = -torch.inf

    def backward(self, part: Tensor, span: slice, grad: Tensor, grads: tuple[Tensor, Tensor]) -> None:
        grads[0][span].addmm_(grad, self._vectors)
        self._grad.addmm_(grad.T, part)

    def finish(self, grad_items: Tensor) -> None:
        grad_items.index_add_(0, self._rows, self._grad)


class _PerRow:
    """Logits of negatives of each row's own: vectors gathered for a chunk at a time."""

    def __init__(self, items: Tensor, rows: Tensor, wanted: Tensor) -> None:
        self._items, self._rows, self._wanted = items, rows, wanted
        self._gathered = items

    def forward(self, part: Tensor, span: slice, out: Tensor) -> None:
        rows = self._rows[span]
        self._gathered = self._items[rows]
        out.copy_((self._gathered @ part[:, :, None]).squeeze(2))
        out.masked_fill_(rows == self._wanted[span, None], -torch.inf)

    def backward(self, part: Tensor, span: slice, grad: Tensor, grads: tuple[Tensor, Tensor]) -> None:
        grads[0][span] += (grad[:, None, :] @ self._gathered).squeeze(1)
        spread = grad[:, :, None] * part[:, None, :]
        grads[1].index_add_(0, self._rows[span].flatten(), spread.flatten(0, 1))

    def finish(self, grad_items: Tensor) -> None:
        """Nothing is held back."""
