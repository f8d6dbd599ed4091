"""Ranking losses over a catalogue: full softmax, and softmax over a sample with correction for the sampling."""

from typing import Any

import msgspec
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F  # noqa: N812

from millirec.data.errors import ConfigError
from millirec.train.negatives import Negatives

# Rows of logits in work at a time: small enough to stay in cache, large enough for the matrix product.
_CHUNK_ELEMENTS = 1 << 20


class FullSoftmax(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="full-softmax",
):
    """Cross-entropy over the whole catalogue."""


class SampledSoftmax(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="sampled-softmax",
):
    """Cross-entropy over the target and `negatives` items drawn anew for each batch and shared by it.

    `sampling` is "uniform" or "popularity" (drawn in proportion to count ** `power`). The logits are corrected
    by the logarithm of the expected count of each item in the sample (Bengio and Senecal, 2008), so that the
    model converges to the full softmax's whatever the sampler.
    """

    negatives: int = 512
    sampling: str = "uniform"
    power: float = 0.5

    def __post_init__(self) -> None:
        if self.negatives < 1:
            raise ConfigError(f"$.train.loss.negatives = {self.negatives}", "draw at least 1")
        if self.sampling not in ("uniform", "popularity"):
            raise ConfigError(f"$.train.loss.sampling = {self.sampling!r}", "use 'uniform' or 'popularity'")


LossConfig = FullSoftmax | SampledSoftmax


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of `hidden @ items.T`, with the gradient computed in the same pass over the logits.

    The (N, n_items) logits never exist as a whole: a chunk of rows is scored, turned into probabilities and
    multiplied back while it is in cache, so memory is O(N d), and the time that a large allocation costs in
    page faults is saved. The idea is that of Wijmans et al., "Cut Your Losses in Large-Vocabulary Language
    Models", 2024.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        n, vocabulary = len(hidden), len(items)
        grad_hidden, grad_items = torch.empty_like(hidden), torch.zeros_like(items)
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        rows = max(1, min(n, _CHUNK_ELEMENTS // vocabulary))
        logits = hidden.new_empty(rows, vocabulary)
        for start in range(0, n, rows):
            part, target = hidden[start : start + rows], targets[start : start + rows, None]
            out = logits[: len(part)]
            torch.mm(part, items.T, out=out)
            out[:, 0] = -torch.inf
            torch.softmax(out, dim=1, out=out)
            chosen = out.gather(1, target)
            total -= chosen.clamp_min(1e-30).log().sum().double()
            out.scatter_(1, target, chosen - 1)
            torch.mm(out, items, out=grad_hidden[start : start + rows])
            grad_items.addmm_(out.T, part)
        ctx.save_for_backward(grad_hidden, grad_items)
        ctx.n = n
        return (total / n).to(hidden.dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_hidden, grad_items = ctx.saved_tensors  # type: ignore[attr-defined]
        scale = grads[0] / ctx.n  # type: ignore[attr-defined]
        return grad_hidden * scale, grad_items * scale, None


def full_softmax(hidden: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the catalogue.

    `hidden` (N, d), `items` (n_items + 1, d) with row 0 left out of the softmax, `targets` int64 (N,) in
    1..n_items. Returns a scalar.
    """
    loss: Tensor = _ChunkedCrossEntropy.apply(hidden, items, targets)  # type: ignore[no-untyped-call]
    return loss


def sampled_softmax(hidden: Tensor, items: Tensor, targets: Tensor, negatives: Negatives) -> Tensor:
    """Mean cross-entropy over target and shared negatives, corrected for the sampling; shapes as above.

    A negative that happens to be a row's target is masked for that row. The target itself is certain to be in
    the sample, so its own logit is corrected by its expected count as well.
    """
    positive = (hidden * items[targets]).sum(1) - negatives.log_expected[targets]
    rows = negatives.rows
    logits = torch.addmm(-negatives.log_expected[rows], hidden, items[rows].T)
    logits = logits.masked_fill(rows[None, :] == targets[:, None], -torch.inf)
    return (F.softplus(torch.logsumexp(logits, 1) - positive)).mean()
