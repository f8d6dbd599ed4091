"""Cross-entropy over the catalogue, or over a sample of it with correction for the sampling."""

from typing import Any

import msgspec
import torch
from torch import Tensor

from millirec.data.errors import ConfigError
from millirec.train.losses.contrast import contrast
from millirec.train.losses.ready import Ready
from millirec.train.losses.sampled import Sampled
from millirec.train.negatives import Negatives

# Logits in work at a time, see contrast.py; a row of the whole catalogue is longer.
_CHUNK_ELEMENTS = 1 << 20
_CORRECTIONS = ("both", "negatives", "none")


class FullSoftmax(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="full-softmax",
):
    """Cross-entropy over the whole catalogue."""


class SampledSoftmax(Sampled, frozen=True, kw_only=True, tag_field="kind", tag="sampled-softmax"):
    """Cross-entropy over the target and sampled items; `corrected` says what `correction` does.

    Adaptive negatives are not corrected.
    """

    correction: str = "both"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.correction)


class InBatchSoftmax(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="in-batch-softmax",
):
    """Cross-entropy over the target and the other targets of the batch, corrected for their popularity.

    Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys 2019.
    `negatives` > 0 takes that many of the batch's targets, 0 takes all. `uniform` adds as many items drawn from the
    catalogue, so that items that nobody took learn too (Yang et al., "Mixed Negative Sampling", WWW 2020).
    """

    negatives: int = 0
    uniform: int = 0
    correction: str = "both"

    def __post_init__(self) -> None:
        _check(self.correction)
        for name in ("negatives", "uniform"):
            if getattr(self, name) < 0:
                raise ConfigError(f"$.train.loss.{name} = {getattr(self, name)}", "choose 0 or more")


def _check(correction: str) -> None:
    if correction not in _CORRECTIONS:
        names = ", ".join(repr(name) for name in _CORRECTIONS)
        raise ConfigError(f"$.train.loss.correction = {correction!r}", f"use one of {names}")


def corrected(negatives: Negatives, correction: str) -> Negatives:
    """What is subtracted from the logits, by the logarithm of an item's expected count in the sample.

    "both": from negatives and target. The loss then asks which of the items at hand is the target, and the model that
    answers best is the full softmax's for any size of the sample (Yi et al., 2019). "negatives": the sum over the
    negatives estimates that over the catalogue, so that value and gradient tend to the full softmax's (Bengio and
    Senecal, 2008; Khrylchenko et al., "Correcting the LogQ Correction", RecSys 2025). "none": nothing, so popular items
    are held down where they are drawn more often. With uniform negatives "both" and "none" are the same.
    """
    nothing = torch.zeros_like
    match correction:
        case "negatives":
            return negatives._replace(log_expected_wanted=nothing(negatives.log_expected_wanted))
        case "none":
            return negatives._replace(
                log_expected=nothing(negatives.log_expected),
                log_expected_wanted=nothing(negatives.log_expected_wanted),
            )
        case _:
            return negatives


def sampled_softmax(hidden: Tensor, items: Tensor, wanted: Tensor, negatives: Negatives, keep: int = 0) -> Tensor:
    """Mean cross-entropy over target and negatives, the logits less the logs of expected counts.

    Arguments as of `contrast`.
    """
    return contrast(hidden, items, wanted, negatives.rows, _SoftmaxTerms(negatives), keep)


class _SoftmaxTerms:
    def __init__(self, negatives: Negatives) -> None:
        self._shift = negatives.counts.log() - negatives.log_expected
        self._own = negatives.log_expected_wanted

    def __call__(self, logits: Tensor, span: slice) -> Tensor:
        logits[:, :-1] += self._shift if self._shift.dim() == 1 else self._shift[span]
        logits[:, -1] -= self._own[span]
        torch.softmax(logits, 1, out=logits)
        chance = logits[:, -1].clamp_min(1e-30)
        loss = -chance.log().sum()
        logits[:, -1] -= 1
        return loss


class _ChunkedCrossEntropy(Ready):
    """Mean cross-entropy of `hidden @ items.T`, with the gradient computed in the same pass over the logits.

    As `contrast`, but the target has no column of its own.
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
        Ready.keep(ctx, grad_hidden, grad_items)
        return (total / n).to(hidden.dtype)


def full_softmax(hidden: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the catalogue.

    `hidden` (N, d), `items` (n_items + 1, d) with row 0 left out of the softmax, `targets` int64 (N,) in
    1..n_items. Returns a scalar.
    """
    loss: Tensor = _ChunkedCrossEntropy.apply(hidden, items, targets)  # type: ignore[no-untyped-call]
    return loss
