"""Cross-entropy against the true item and a soft target: what other models would answer.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015. Several teachers are mixed by their
probabilities, not by their logits, whose scales differ.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from millirec.train.losses.ready import Ready

# Logits in work at a time, see contrast.py; those of the teachers lie beside those of the student.
_CHUNK_ELEMENTS = 1 << 19


class SoftTarget(Protocol):
    """Chances of every item for each of N questions."""

    def fill(self, span: slice, out: Tensor) -> None:
        """Write those of questions `span` into `out` (n, n_items): items 1..n_items, rows that sum up to 1."""


class Teacher(NamedTuple):
    """`vectors` (N, d), floats of any width, one a question; `items` (n_items, d) of rows 1..n_items; its `weight`."""

    vectors: Tensor
    items: Tensor
    weight: float


class Spoken:
    """The weighted mean of the softmaxes of teachers, whose `items` are divided by the temperature already."""

    def __init__(self, teachers: Sequence[Teacher]) -> None:
        self._teachers = teachers
        self._buffer = torch.empty(0)

    def fill(self, span: slice, out: Tensor) -> None:
        """As `SoftTarget.fill`."""
        total = 0.0
        for number, teacher in enumerate(self._teachers):
            own = out if not number else self._beside(out)
            torch.mm(teacher.vectors[span].to(out.dtype), teacher.items.T, out=own)
            torch.softmax(own, 1, out=own)
            total += teacher.weight
            if number:
                out.lerp_(own, teacher.weight / total)

    def _beside(self, out: Tensor) -> Tensor:
        if len(self._buffer) < len(out):
            self._buffer = torch.empty_like(out)
        return self._buffer[: len(out)]


class Listed(NamedTuple):
    """The best items alone: `rows` int64 (N, K), distinct in a row, and their `chances` (N, K), which sum up to 1."""

    rows: Tensor
    chances: Tensor

    def fill(self, span: slice, out: Tensor) -> None:
        """As `SoftTarget.fill`; all other items have no chance."""
        out.zero_().scatter_(1, self.rows[span] - 1, self.chances[span].to(out.dtype))


class Blend(NamedTuple):
    """How the true item and the soft target are weighed.

    The loss is (1 - `alpha`) times the cross-entropy with the true item, and `alpha` T^2 times that of the soft target
    and the softmax of logits / T, T = `temperature`. T^2 keeps the size of the gradients.
    """

    alpha: float
    temperature: float = 1.0

    def __call__(self, logits: Tensor, soft: Tensor, target: Tensor, shift: Tensor | None = None) -> Tensor:
        """The summed loss of rows `logits` (n, c); its gradient takes their place.

        `soft` (n, s): chances of the first s columns, none of which holds -inf. `target` int64 (n, 1): the column of
        the true item. `shift` (c,) is added to the logits where they are summed over, after the division by T.
        """
        alpha, heat = self
        width = soft.shape[1]
        own = logits.gather(1, target).sum()
        agreed = torch.dot(soft.flatten(), logits[:, :width].flatten()) / heat
        cool = logits if heat == 1 else logits / heat
        if shift is not None:
            cool += shift
        total = _softmax(cool) - agreed
        if heat == 1:
            loss = total + (1 - alpha) * (agreed - own)
        else:
            hard = _softmax(logits if shift is None else logits.add_(shift)) - own
            loss = alpha * heat**2 * total + (1 - alpha) * hard
            logits.mul_(1 - alpha).add_(cool, alpha=alpha * heat)
        logits[:, :width].sub_(soft, alpha=alpha * heat)
        logits.scatter_add_(1, target, logits.new_full(target.shape, alpha - 1))
        return loss


def _softmax(logits: Tensor) -> Tensor:
    """In place; the sum of the logarithms of what the rows were divided by."""
    peak = logits.amax(1)
    torch.softmax(logits, 1, out=logits)
    return (peak - logits.amax(1).log()).sum()


class _ChunkedSoft(Ready):
    """As `softmax._ChunkedCrossEntropy`."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, items: Tensor, wanted: Tensor, soft: SoftTarget, blend: Blend) -> Tensor:
        n, real = len(hidden), items[1:]
        grad_hidden, grad_items = torch.empty_like(hidden), torch.zeros_like(items)
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        rows = max(1, min(n, _CHUNK_ELEMENTS // len(real)))
        buffers = hidden.new_empty(2, rows, len(real))
        for start in range(0, n, rows):
            span = slice(start, min(n, start + rows))
            part = hidden[span]
            logits, chances = buffers[0, : len(part)], buffers[1, : len(part)]
            torch.mm(part, real.T, out=logits)
            soft.fill(span, chances)
            total += blend(logits, chances, wanted[span, None] - 1).double()
            torch.mm(logits, real, out=grad_hidden[span])
            grad_items[1:].addmm_(logits.T, part)
        Ready.keep(ctx, grad_hidden, grad_items)
        return (total / n).to(hidden.dtype)


def soft_softmax(hidden: Tensor, items: Tensor, wanted: Tensor, soft: SoftTarget, blend: Blend) -> Tensor:
    """The mean loss over the catalogue, as `Blend` says.

    `hidden` (N, d), `items` (n_items + 1, d) with row 0 left out of the softmax, `wanted` int64 (N,) in 1..n_items.
    With alpha = 0 it is `full_softmax`.
    """
    loss: Tensor = _ChunkedSoft.apply(hidden, items, wanted, soft, blend)  # type: ignore[no-untyped-call]
    return loss
