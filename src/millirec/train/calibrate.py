"""Calibration fitted to held-out rows: what share of rows with such a logit was a success?"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, minimize

from millirec.models.rankers.calibration import Calibration, Isotonic, Platt, Sigmoid

Method = Literal["none", "platt", "isotonic"]


def calibrated(method: Method, logits: NDArray[np.float64], labels: NDArray[np.int8]) -> Calibration:
    """The calibration that fits logits (n,) to labels (n,) of 0 and 1 best."""
    match method:
        case "none":
            return Sigmoid()
        case "platt":
            return _platt(logits, labels)
        case "isotonic":
            return _isotonic(logits, labels)


def _platt(logits: NDArray[np.float64], labels: NDArray[np.int8]) -> Platt:
    """Least log loss, the labels drawn in a little from 0 and 1 as Platt has it: (n+ + 1) / (n+ + 2), 1 / (n- + 2)."""
    positives = int(labels.sum())
    wanted = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2))

    def loss(line: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        x = line[0] * logits + line[1]
        gap = Sigmoid().chances(x) - wanted
        return float((np.logaddexp(0, x) - wanted * x).mean()), np.array([(gap * logits).mean(), gap.mean()])

    slope, offset = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B").x
    return Platt(slope=float(slope), offset=float(offset))


def _isotonic(logits: NDArray[np.float64], labels: NDArray[np.int8]) -> Isotonic:
    """Least squares among rising curves (pool adjacent violators); equal logits share their labels. The ends are drawn
    in as Platt's are, since no chance is nought.
    """
    distinct, inverse, counts = np.unique(logits, return_inverse=True, return_counts=True)
    shares = np.bincount(inverse, labels) / counts
    values = np.asarray(isotonic_regression(shares, weights=counts).x)
    positives = int(labels.sum())
    values = np.clip(values, 1 / (len(labels) - positives + 2), (positives + 1) / (positives + 2))
    # The inside of a level stretch says nothing that its two ends do not say.
    inside = np.zeros(len(values), np.bool_)
    inside[1:-1] = (values[1:-1] == values[:-2]) & (values[1:-1] == values[2:])
    return Isotonic(logits=tuple(distinct[~inside].tolist()), values=tuple(values[~inside].tolist()))
