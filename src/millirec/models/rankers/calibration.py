"""`Calibration`: from a ranker's logit to the chance that is shown. Pure arrays: a server needs no more than this."""

import msgspec
import numpy as np
from numpy.typing import NDArray


class Sigmoid(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="none"):
    """The logit as it is."""

    def chances(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) to (n,), in [0, 1]."""
        return _sigmoid(logits)


class Platt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="platt"):
    """A logistic curve over the logit: sigmoid(slope x logit + offset). Platt, 1999."""

    slope: float
    offset: float

    def chances(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) to (n,), in (0, 1)."""
        return _sigmoid(self.slope * logits + self.offset)


class Isotonic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="isotonic"):
    """A rising curve through points, straight between them and level beyond. Zadrozny and Elkan, KDD 2002."""

    logits: tuple[float, ...]
    values: tuple[float, ...]

    def chances(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) to (n,), in (0, 1)."""
        return np.interp(logits, self.logits, self.values)


Calibration = Sigmoid | Platt | Isotonic


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):  # one over infinity is 0, as it should be
        out: NDArray[np.float64] = 1 / (1 + np.exp(-x))
    return out
