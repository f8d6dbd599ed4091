"""Binary cross-entropy: the target is to be a yes, each negative a no."""

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from millirec.data.errors import ConfigError
from millirec.train.losses.contrast import contrast
from millirec.train.losses.sampled import Sampled
from millirec.train.negatives import Negatives


class BCE(Sampled, frozen=True, kw_only=True, tag_field="kind", tag="bce"):
    """Binary cross-entropy of target and sampled items, without correction.

    With `negatives = 1`, `per_row = true` the loss of SASRec's paper (Kang and McAuley, ICDM 2018).
    """


class GBCE(Sampled, frozen=True, kw_only=True, tag_field="kind", tag="gbce"):
    """BCE with the target's probability raised to a power that undoes the overconfidence that sampling brings.

    Petrov and Macdonald, "gSASRec: Reducing Overconfidence in Sequential Recommendation Trained with Negative
    Sampling", RecSys 2023. `calibration` is their t: 0 = plain BCE, 1 = fully calibrated probabilities. Their proof
    is for uniform negatives.
    """

    negatives: int = 256
    calibration: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.calibration <= 1:
            raise ConfigError(f"$.train.loss.calibration = {self.calibration}", "choose from 0 to 1")
        if self.sampling != "uniform":
            raise ConfigError(
                f"$.train.loss.sampling = {self.sampling!r}: the calibration is for uniform negatives",
                "use 'uniform', or kind = 'bce'",
            )

    def power_of(self, n_items: int) -> float:
        """The power beta of the target's probability: alpha (t (1 - 1 / alpha) + 1 / alpha)."""
        alpha = min(1.0, self.negatives / max(1, n_items - 1))
        return self.calibration * (alpha - 1) + 1


def binary(
    hidden: Tensor, items: Tensor, wanted: Tensor, negatives: Negatives, power: float = 1.0, keep: int = 0
) -> Tensor:
    """-(power log s(target) + sum of log(1 - s(negative))) / (1 + drawn), averaged over rows.

    Arguments as of `contrast`; `s` is the sigmoid of the inner product; a negative drawn twice counts twice.
    """
    drawn = keep or float(negatives.counts.sum(-1).flatten()[0])
    return contrast(hidden, items, wanted, negatives.rows, _BinaryTerms(negatives.counts, power, 1 + drawn), keep)


class _BinaryTerms:
    def __init__(self, counts: Tensor, power: float, size: float) -> None:
        self._counts, self._power, self._size = counts / size, power / size, size

    def __call__(self, logits: Tensor, span: slice) -> Tensor:
        counts = self._counts if self._counts.dim() == 1 else self._counts[span]
        target, others = logits[:, -1], logits[:, :-1]
        loss = self._power * F.softplus(-target).sum() + (F.softplus(others) * counts).sum()
        target.neg_().sigmoid_().mul_(-self._power)
        others.sigmoid_().mul_(counts)
        return loss
